/* Fresh memory is all zero, whatever the machine did with the frames while it was idle. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MIB (1ul << 20)

static unsigned long dirty_words(const unsigned long *at, size_t bytes)
{
    unsigned long dirty = 0;
    for (size_t i = 0; i < bytes / sizeof *at; i++)
        dirty += at[i] != 0;
    return dirty;
}

static unsigned long round_of(size_t bytes, int fill)
{
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return 1;
    /* Writes first, so that the pages are real ones. */
    for (size_t i = 0; i < bytes; i += 4096)
        at[i] = 0;
    unsigned long dirty = dirty_words((const unsigned long *)at, bytes);
    memset(at, fill, bytes);
    munmap(at, bytes);
    return dirty;
}

int main(void)
{
    unsigned long dirty = 0;
    for (int i = 0; i < 12; i++) {
        dirty += round_of(i % 3 == 0 ? 8 * MIB : 3 * MIB + 4096 * i, 0xa0 + i);
        /* The machine has nothing to do but to zero frames. */
        nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    }
    printf("%lu words of fresh memory were not zero\n", dirty);
    return dirty != 0;
}
