/* The clock on the wall as an administrator or a time server might set it, only faster: right for a sixteenth of a second, then a day ahead
 * for a sixteenth, and so on, for all processes alike. A sixteenth, so that a node that is busy for a moment only is told a wrong time, too. Every process that is told a wrong time writes its name to the file that CLOCK_WITNESSES names. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void witness(void) {
    static int told;
    const char *path = getenv("CLOCK_WITNESSES");
    if (__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED) || !path) return;
    int before = errno, file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    char line[64] = {0};
    size_t length = strlen(strncpy(line, program_invocation_short_name, sizeof line - 2));
    line[length++] = '\n';
    if (file >= 0) {
        if (write(file, line, length) < 0) _exit(99);
        close(file);
    }
    errno = before;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    if (syscall(SYS_clock_gettime, clock, at)) return -1;
    struct timespec machine;
    if ((clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) || syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &machine)) return 0;
    if ((machine.tv_sec * 16 + machine.tv_nsec / 62500000) % 2) {
        at->tv_sec += 24 * 60 * 60;
        witness();
    }
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return (time_t)-1;
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
