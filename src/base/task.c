#include "base/task.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/memory.h"

struct fm_task {
    int (*work)(void *user);
    void *user;
    pthread_t thread;
    bool has_thread;
    atomic_bool done;
    int rc;
    char why[1024];                    /* the thread's message */
};

static void *run(void *argument)
{
    fm_task *const task = argument;
    task->rc = task->work(task->user);
    if (task->rc < 0) {
        snprintf(task->why, sizeof task->why, "%s", fm_error_message());
    }
    atomic_store(&task->done, true);
    return NULL;
}

int fm_task_begin(fm_task **out, int (*work)(void *user), void *user)
{
    fm_task *const task = fm_alloc(sizeof *task, FM_MEMORY_HOST);
    *out = task;
    if (task == NULL) {
        return FM_ERR_MEMORY;
    }
    task->work = work;
    task->user = user;
    task->has_thread = pthread_create(&task->thread, NULL, run, task) == 0;
    if (!task->has_thread) {           /* no more threads: then in this one */
        run(task);
    }
    return FM_OK;
}

bool fm_task_is_done(const fm_task *task)
{
    return task == NULL || atomic_load(&((fm_task *)task)->done);
}

void fm_task_abandon(fm_task *task)
{
    if (task != NULL && task->has_thread) {
        pthread_join(task->thread, NULL);
    }
    fm_free(task);
}

int fm_task_end(fm_task *task)
{
    if (task != NULL && task->has_thread) {
        pthread_join(task->thread, NULL);
        task->has_thread = false;
    }
    const int rc = task != NULL && task->rc < 0 ? fm_fail_with(task->rc, task->why) : FM_OK;
    fm_free(task);
    return rc;
}
