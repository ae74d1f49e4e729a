/* `peak FILE PROGRAM ARGUMENTS...`: runs the program and appends the most memory that it had resident, in KiB, as a line to FILE. Its exit
 * status is the program's. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct rusage usage;
    char line[32];
    int status;
    if (argc < 3) {
        fprintf(stderr, "peak FILE PROGRAM ARGUMENTS...\n");
        return 99;
    }
    const pid_t child = fork();
    if (child == 0) {
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(99);
    }
    if (child < 0 || wait4(child, &status, 0, &usage) != child) {
        perror("peak");
        return 99;
    }
    const int fd = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0666);
    const int length = snprintf(line, sizeof line, "%ld\n", usage.ru_maxrss);
    if (fd < 0 || write(fd, line, (size_t)length) != length || close(fd) != 0) {
        perror(argv[1]);
        return 99;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
