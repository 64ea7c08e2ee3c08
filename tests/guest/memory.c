/* mmap and its relations. */
#include "memory.h"
#include <fcntl.h>
#include <sys/stat.h>

int main(void)
{
	catch_faults();

	/* Zero-filled, kept, gone after munmap. */
	char *p = anon(64 * P, RW);
	CHECK(p != MAP_FAILED && ((uintptr_t)p & 4095) == 0);
	int sum = 0;
	for (size_t i = 0; i < 64 * P; i += 512)
		sum += p[i];
	CHECK(sum == 0);
	memset(p, 7, 64 * P);
	CHECK(munmap(p + 16 * P, 16 * P) == 0);
	CHECK(p[16 * P - 1] == 7 && p[32 * P] == 7);
	CHECK(faults(p + 16 * P, 0) == SIGSEGV && faults(p + 32 * P - 1, 1) == SIGSEGV);
	CHECK(munmap(p + 16 * P, 16 * P) == 0); /* a hole may be unmapped again */

	/* MAP_FIXED replaces, MAP_FIXED_NOREPLACE refuses. */
	CHECK(mmap(p, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p && p[0] == 0 && p[P] == 7);
	FAILS(mmap(p + P, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
	CHECK(mmap(p + 16 * P, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p + 16 * P);
	/* A free hint is honoured. */
	CHECK(munmap(p, 64 * P) == 0);
	CHECK(mmap(p + 4 * P, P, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == p + 4 * P);
	CHECK(munmap(p + 4 * P, P) == 0);
	char *hinted = mmap((void *)0xc000000000, 64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(hinted == (void *)0xc000000000);
	CHECK(mprotect(hinted, P, RW) == 0 && (hinted[1] = 5) == 5);
	CHECK((uintptr_t)mmap(NULL, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0) < 0x80000000ul);

	/* Wrong arguments. */
	FAILS(mmap(NULL, 0, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
	FAILS(mmap(NULL, P, RW, MAP_PRIVATE, -1, 0), EBADF);
	FAILS(mmap(NULL, P, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
	FAILS(mmap((void *)1, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
	FAILS(mmap((void *)0x7ffffffff000, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), ENOMEM);
	FAILS(munmap((void *)1, P), EINVAL);
	FAILS(munmap(hinted, 0), EINVAL);
	FAILS(mprotect(hinted + 1, P, RW), EINVAL);
	FAILS(mprotect((void *)0x500000000000, P, RW), ENOMEM);

	/* mprotect splits and joins. */
	p = anon(8 * P, RW);
	memset(p, 9, 8 * P);
	CHECK(mprotect(p + 2 * P, 2 * P, PROT_READ) == 0);
	CHECK(faults(p + 2 * P, 1) == SIGSEGV && faults(p + 2 * P, 0) == 0 && faults(p + P, 1) == 0 && faults(p + 4 * P, 1) == 0);
	CHECK(mprotect(p, 8 * P, PROT_NONE) == 0 && faults(p, 0) == SIGSEGV);
	CHECK(mprotect(p, 8 * P, RW) == 0 && p[0] == 9 && p[2 * P] == 9 && faults(p + 2 * P, 1) == 0);

	/* madvise, mincore. */
	unsigned char resident[8];
	CHECK(mincore(p, 8 * P, resident) == 0 && resident[0] == 1);
	CHECK(madvise(p, 4 * P, MADV_DONTNEED) == 0 && p[0] == 0 && p[4 * P] == 9);
	CHECK(madvise(p, 8 * P, MADV_WILLNEED) == 0);
	FAILS(madvise(p + 1, P, MADV_DONTNEED), EINVAL);
	FAILS(madvise(p, P, 9999), EINVAL);

	/* mremap. */
	p = anon(4 * P, RW);
	for (int i = 0; i < 4; i++)
		p[i * P] = i + 1;
	char *q = mremap(p, 4 * P, 64 * P, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED && q[0] == 1 && q[3 * P] == 4 && q[4 * P] == 0 && q[63 * P] == 0);
	q = mremap(q, 64 * P, 2 * P, 0);
	CHECK(q != MAP_FAILED && q[P] == 2 && faults(q + 2 * P, 0) == SIGSEGV);
	char *target = anon(2 * P, RW);
	CHECK(mremap(q, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target && target[P] == 2 && faults(q, 0) == SIGSEGV);
	char *wall = anon(2 * P, RW);
	munmap(wall + P, P);
	CHECK(mmap(wall + P, P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == wall + P);
	FAILS(mremap(wall, P, 2 * P, 0), ENOMEM);
	FAILS(mremap((void *)0x500000000000, P, 2 * P, MREMAP_MAYMOVE), EFAULT);

	/* Files: private copies, shared changes, tails. */
	char data[3 * 4096];
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = i * 13;
	int fd = open("/tmp/memory-file", O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(write(fd, data, 2 * P + 100) == (ssize_t)(2 * P + 100));
	char *private = mmap(NULL, 3 * P, RW, MAP_PRIVATE, fd, 0);
	char *shared = mmap(NULL, 3 * P, RW, MAP_SHARED, fd, 0);
	CHECK(!memcmp(private, data, 2 * P + 100) && !memcmp(shared, data, 2 * P + 100));
	CHECK(private[2 * P + 100] == 0 && shared[3 * P - 1] == 0);
	private[10] = 'p';
	shared[20] = 's';
	char byte;
	CHECK(pread(fd, &byte, 1, 10) == 1 && byte == data[10]);
	CHECK(pread(fd, &byte, 1, 20) == 1 && byte == 's');
	CHECK(shared[10] == data[10] && private[10] == 'p');
	CHECK(pwrite(fd, "w", 1, P + 5) == 1 && shared[P + 5] == 'w' && private[P + 5] == 'w');
	CHECK(msync(shared, 3 * P, MS_SYNC) == 0);
	char *offset = mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, P);
	CHECK(offset[5] == 'w' && offset[6] == data[P + 6]);
	CHECK(close(fd) == 0 && unlink("/tmp/memory-file") == 0);
	CHECK(shared[30] == data[30]);
	FAILS(mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 0), EBADF);
	fd = open("/tmp", O_RDONLY | O_DIRECTORY);
	FAILS(mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 0), ENODEV);
	close(fd);
	fd = open("/proc/self/exe", O_RDONLY);
	FAILS(mmap(NULL, P, RW, MAP_SHARED, fd, 0), EACCES);
	FAILS(mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 1), EINVAL);
	char *elf = mmap(NULL, P, RW, MAP_PRIVATE, fd, 0);
	CHECK(!memcmp(elf, "\177ELF", 4) && (elf[0] = 1) == 1);
	close(fd);

	/* Shared anonymous memory, memfd mapped twice. */
	fd = memfd_create("twice", 0);
	CHECK(fd >= 0 && ftruncate(fd, 2 * P) == 0);
	char *a = mmap(NULL, 2 * P, RW, MAP_SHARED, fd, 0), *b = mmap(NULL, 2 * P, RW, MAP_SHARED, fd, 0);
	a[P + 1] = 42;
	CHECK(a != b && b[P + 1] == 42);
	CHECK(ftruncate(fd, P) == 0 && faults(a + P, 0) == SIGBUS);

	/* Code made at run time. */
	static const unsigned char code[] = { 0x8d, 0x47, 0x01, 0xc3 }; /* lea 1(%rdi),%eax; ret */
	char *jit = anon(P, RW | PROT_EXEC);
	memcpy(jit, code, sizeof code);
	CHECK(((int (*)(int))jit)(41) == 42);
	jit[2] = 2;
	CHECK(((int (*)(int))jit)(41) == 43);

	/* The break. */
	char *start = sbrk(0);
	CHECK(sbrk(10 * P) == start && sbrk(0) == start + 10 * P);
	memset(start, 1, 10 * P);
	CHECK(brk(start + P) == 0 && faults(start + 5 * P, 0) == SIGSEGV);
	CHECK(brk(start + 3 * P) == 0 && start[2 * P] == 0);

	/* Much more than there is memory, as long as it is not touched. */
	char *huge = mmap(NULL, 1ul << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(huge != MAP_FAILED && mprotect(huge + (1ul << 39), P, RW) == 0);
	huge[1ul << 39] = 1;
	CHECK(munmap(huge, 1ul << 40) == 0);
	FAILS(mmap(NULL, 1ul << 48, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);

	/* Many small mappings. */
	int good = 0;
	for (int i = 0; i < 2000; i++) {
		char *m = anon((i % 7 + 1) * P, RW);
		m[0] = i;
		good += m[0] == (char)i;
		if (i % 3)
			munmap(m, (i % 7 + 1) * P);
	}
	CHECK(good == 2000);
	CHECK(mlock(target, P) == 0 && munlock(target, P) == 0);
	return DONE();
}
