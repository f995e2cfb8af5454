/* Simulates a file system without locks, for LD_PRELOAD: flock fails with the error number in FLOCK_ERRNO. */
#include <errno.h>
#include <stdlib.h>

int flock(int descriptor, int operation) {
    (void)descriptor, (void)operation;
    errno = atoi(getenv("FLOCK_ERRNO"));
    return -1;
}
