/* Replaces the C library's clocks, for LD_PRELOAD: a test sets the time of this machine, or lets it sleep, for one run only.

   FAKE_CLOCK names a file of two 64-bit numbers, in seconds: how far the system's clock was set forward (or back), and how
   long the machine has slept. They are read at every call, so that a test can change them during the run. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *changes;

__attribute__((constructor)) static void open_changes(void) {
    const char *path = getenv("FAKE_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) changes = mapped;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (failed || !changes) return failed;
    if (clock == CLOCK_REALTIME) now->tv_sec += changes[0] + changes[1];
    if (clock == CLOCK_BOOTTIME) now->tv_sec += changes[1];
    return 0;
}
