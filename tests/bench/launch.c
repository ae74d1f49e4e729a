/* Runs a program and says what it cost:  launch RESULT WATCHED PROGRAM ARGUMENTS...
 * Writes "MAX_RSS_KIB SECONDS" to the file RESULT: the most memory that any one process under the program had (VmHWM of the
 * largest rank), and the time from exec until the file WATCHED had its first line. Exits with the program's status. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int has_line(const char *path)
{
    char text[4096];
    const int file = open(path, O_RDONLY);
    const ssize_t n = file < 0 ? 0 : read(file, text, sizeof text);
    if (file >= 0) {
        close(file);
    }
    return n > 0 && memchr(text, '\n', (size_t)n) != NULL;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: launch RESULT WATCHED PROGRAM ARGUMENTS...\n");
        return 99;
    }
    const double start = now_seconds();
    const pid_t child = fork();
    if (child == 0) {
        execvp(argv[3], argv + 3);
        perror(argv[3]);
        _exit(99);
    }
    double first_line = 0;
    int status = 0;
    struct rusage usage;
    pid_t ended = 0;
    while (child > 0 && (ended = wait4(child, &status, WNOHANG, &usage)) == 0) {
        if (first_line == 0 && has_line(argv[2])) {
            first_line = now_seconds() - start;
        }
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    FILE *result = ended == child ? fopen(argv[1], "w") : NULL;
    if (result == NULL) {
        return 99;
    }
    fprintf(result, "%ld %.3f\n", usage.ru_maxrss, first_line);
    fclose(result);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}
