/* Uses and frees memory as its input says, one command per line: `use MIB`, `free`, `end`. Answers each with `done`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int main(void)
{
    char line[100], *memory = NULL;
    size_t bytes = 0;
    while (fgets(line, sizeof line, stdin) != NULL && strcmp(line, "end\n") != 0) {
        if (memory != NULL)
            munmap(memory, bytes);
        memory = NULL;
        if (strncmp(line, "use ", 4) == 0) {
            bytes = strtoul(line + 4, NULL, 10) << 20;
            memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED)
                return 1;
            /* Not all the same, so that nobody can merge the pages. */
            for (size_t i = 0; i < bytes; i += 4096)
                *(size_t *)(memory + i) = i;
            for (size_t i = 0; i < bytes; i += 4096)
                if (*(size_t *)(memory + i) != i)
                    return 2;
        }
        puts("done");
        fflush(stdout);
    }
    return 0;
}
