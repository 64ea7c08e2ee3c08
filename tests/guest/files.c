/* Files and directories under /tmp, with Linux's answers. */
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#define DIR_ "/tmp/files-test"

static int names(const char *path, char *out)
{
	struct dirent **list;
	int n = scandir(path, &list, NULL, alphasort);
	*out = 0;
	for (int i = 0; i < n; i++) {
		strcat(strcat(out, list[i]->d_name), " ");
		free(list[i]);
	}
	free(list);
	return n;
}

static int create(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	long n = write(fd, text, strlen(text));
	close(fd);
	return n == (long)strlen(text);
}

int main(void)
{
	char buf[8192], list[8192], long_name[300];
	struct stat st, st2;
	int fd, fd2;

	umask(022);
	CHECK(mkdir(DIR_, 0777) == 0);
	CHECK(stat(DIR_, &st) == 0 && S_ISDIR(st.st_mode) && (st.st_mode & 07777) == 0755);
	CHECK(chdir(DIR_) == 0 && getcwd(buf, sizeof buf) && !strcmp(buf, DIR_));
	FAILS(mkdir("../files-test", 0777), EEXIST);
	FAILS(open("none", O_RDONLY), ENOENT);
	FAILS(open("none/x", O_RDWR | O_CREAT, 0600), ENOENT);
	FAILS(open("", O_RDONLY), ENOENT);
	memset(long_name, 'n', 299);
	long_name[299] = 0;
	FAILS(open(long_name, O_RDONLY | O_CREAT, 0600), ENAMETOOLONG);
	long_name[255] = 0;
	CHECK((fd = open(long_name, O_RDWR | O_CREAT, 0600)) >= 0 && close(fd) == 0 && unlink(long_name) == 0);
	memset(buf, 'p', 5000);
	buf[5000] = 0;
	FAILS(open(buf, O_RDONLY), ENAMETOOLONG);

	/* Create, write, read, seek. */
	CHECK((fd = open("a", O_RDWR | O_CREAT | O_EXCL, 0666)) >= 0);
	FAILS(open("a", O_RDWR | O_CREAT | O_EXCL, 0666), EEXIST);
	CHECK(fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0777) == 0644 && st.st_size == 0 && st.st_nlink == 1);
	CHECK(write(fd, "0123456789", 10) == 10 && lseek(fd, 0, SEEK_CUR) == 10);
	CHECK(lseek(fd, -4, SEEK_END) == 6 && read(fd, buf, 100) == 4 && !memcmp(buf, "6789", 4) && read(fd, buf, 100) == 0);
	CHECK(pread(fd, buf, 3, 2) == 3 && !memcmp(buf, "234", 3) && pwrite(fd, "XY", 2, 3) == 2 && lseek(fd, 0, SEEK_CUR) == 10);
	FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
	FAILS(lseek(fd, 0, 77), EINVAL);
	CHECK(lseek(fd, 5000, SEEK_SET) == 5000 && write(fd, "end", 3) == 3 && fstat(fd, &st) == 0 && st.st_size == 5003);
	CHECK(pread(fd, buf, 8192, 0) == 5003 && buf[3] == 'X' && buf[11] == 0 && buf[4999] == 0 && buf[5000] == 'e');
	struct iovec iov[2] = { { "ab", 2 }, { "cd", 2 } };
	CHECK(pwritev(fd, iov, 2, 1) == 4 && pread(fd, buf, 6, 0) == 6 && !memcmp(buf, "0abcd5", 6));
	CHECK(ftruncate(fd, 4) == 0 && fstat(fd, &st) == 0 && st.st_size == 4);
	CHECK(ftruncate(fd, 10) == 0 && pread(fd, buf, 20, 0) == 10 && !memcmp(buf, "0abc\0\0\0\0\0\0", 10));
	FAILS(ftruncate(fd, -1), EINVAL);
	FAILS(pread(fd, buf, 1, -1), EINVAL);
	CHECK(close(fd) == 0);
	CHECK(truncate("a", 2) == 0 && stat("a", &st) == 0 && st.st_size == 2);
	CHECK((fd = open("a", O_WRONLY | O_APPEND)) >= 0 && write(fd, "zz", 2) == 2 && lseek(fd, 0, SEEK_SET) == 0 && write(fd, "yy", 2) == 2);
	FAILS(read(fd, buf, 1), EBADF);
	CHECK(close(fd) == 0 && stat("a", &st) == 0 && st.st_size == 6);
	CHECK((fd = open("a", O_RDONLY | O_TRUNC)) >= 0 && fstat(fd, &st) == 0 && st.st_size == 0);
	FAILS(write(fd, "x", 1), EBADF);
	close(fd);

	/* A hundred blocks, read back in another size. */
	CHECK((fd = open("big", O_RDWR | O_CREAT, 0600)) >= 0);
	for (int i = 0; i < 100; i++) {
		memset(buf, i, 5000);
		if (write(fd, buf, 5000) != 5000)
			CHECK(!"short write");
	}
	long bad = 0, total = 0, n;
	lseek(fd, 0, SEEK_SET);
	while ((n = read(fd, buf, 777)) > 0)
		for (long i = 0; i < n; i++, total++)
			bad += buf[i] != (char)(total / 5000);
	CHECK(total == 500000 && bad == 0);
	CHECK((fd2 = open("copy", O_RDWR | O_CREAT, 0600)) >= 0);
	off_t from = 1000;
	CHECK(sendfile(fd2, fd, &from, 100000) == 100000 && from == 101000 && fstat(fd2, &st) == 0 && st.st_size == 100000);
	CHECK(pread(fd2, buf, 1, 99999) == 1 && buf[0] == 100999 / 5000);
	CHECK(fallocate(fd2, 0, 0, 200000) == 0 && fstat(fd2, &st) == 0 && st.st_size == 200000);
	CHECK(fsync(fd2) == 0 && fdatasync(fd2) == 0);
	close(fd); close(fd2);
	CHECK(unlink("big") == 0 && unlink("copy") == 0);

	/* Links. */
	CHECK(create("one", "text") && link("one", "two") == 0 && stat("one", &st) == 0 && stat("two", &st2) == 0);
	CHECK(st.st_ino == st2.st_ino && st.st_nlink == 2 && unlink("one") == 0 && stat("two", &st) == 0 && st.st_nlink == 1);
	FAILS(link("none", "x"), ENOENT);
	FAILS(link("two", "a"), EEXIST);
	FAILS(link(".", "x"), EPERM);
	CHECK(symlink("two", "soft") == 0 && readlink("soft", buf, 100) == 3 && !memcmp(buf, "two", 3));
	CHECK(lstat("soft", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 3 && stat("soft", &st) == 0 && S_ISREG(st.st_mode));
	FAILS(readlink("two", buf, 100), EINVAL);
	FAILS(open("soft", O_RDONLY | O_NOFOLLOW), ELOOP);
	CHECK(symlink("loop2", "loop1") == 0 && symlink("loop1", "loop2") == 0);
	FAILS(open("loop1", O_RDONLY), ELOOP);
	CHECK(symlink("/tmp/files-test/made", "dangling") == 0 && create("dangling", "x") && stat("made", &st) == 0);
	FAILS(open("dangling", O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST);
	CHECK(unlink("loop1") == 0 && unlink("loop2") == 0 && unlink("dangling") == 0 && unlink("made") == 0 && unlink("soft") == 0);

	/* Unlinked but open. */
	CHECK((fd = open("two", O_RDWR)) >= 0 && unlink("two") == 0 && read(fd, buf, 10) == 4 && fstat(fd, &st) == 0 && st.st_nlink == 0);
	CHECK(write(fd, "more", 4) == 4 && pread(fd, buf, 10, 0) == 8);
	close(fd);

	/* Directories. */
	CHECK(mkdir("d", 0700) == 0 && mkdir("d/e", 0700) == 0 && create("d/f", "f") && stat("d", &st) == 0);
	FAILS(rmdir("d"), ENOTEMPTY);
	FAILS(unlink("d"), EISDIR);
	FAILS(rmdir("d/f"), ENOTDIR);
	FAILS(open("d", O_WRONLY), EISDIR);
	FAILS(open("d/f/x", O_RDONLY), ENOTDIR);
	FAILS(open("d/f/", O_RDONLY), ENOTDIR);
	FAILS(open("d/f", O_RDONLY | O_DIRECTORY), ENOTDIR);
	FAILS(mkdir("d/f", 0700), EEXIST);
	FAILS(rmdir("d/."), EINVAL);
	CHECK((fd = open("d", O_RDONLY | O_DIRECTORY)) >= 0);
	FAILS(read(fd, buf, 10), EISDIR);
	CHECK((fd2 = openat(fd, "f", O_RDONLY)) >= 0 && read(fd2, buf, 5) == 1 && buf[0] == 'f' && close(fd2) == 0);
	CHECK(mkdirat(fd, "g", 0700) == 0 && symlinkat("f", fd, "s") == 0 && fstatat(fd, "s", &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode));
	CHECK(fstatat(fd, "", &st, AT_EMPTY_PATH) == 0 && S_ISDIR(st.st_mode));
	CHECK(names("d", list) == 6 && !strcmp(list, ". .. e f g s "));
	CHECK(unlinkat(fd, "g", AT_REMOVEDIR) == 0 && unlinkat(fd, "s", 0) == 0);
	CHECK(fchdir(fd) == 0 && getcwd(buf, sizeof buf) && !strcmp(buf, DIR_ "/d") && chdir("..") == 0);
	close(fd);
	for (int i = 0; i < 500; i++) {
		sprintf(buf, "d/e/file%03d", i);
		create(buf, "");
	}
	CHECK(names("d/e", list) == 502 && strstr(list, "file000") && strstr(list, "file499"));
	DIR *dir = opendir("d/e");
	int seen = 0;
	struct dirent *entry;
	while ((entry = readdir(dir)) != NULL)
		if (entry->d_name[0] == 'f') { /* removing while reading */
			seen++;
			unlinkat(dirfd(dir), entry->d_name, 0);
		}
	CHECK(seen == 500);
	rewinddir(dir);
	seen = 0;
	while (readdir(dir))
		seen++;
	CHECK(seen == 2 && closedir(dir) == 0);

	/* rename. */
	CHECK(create("r1", "first") && create("r2", "second") && rename("r1", "r2") == 0 && stat("r2", &st) == 0 && st.st_size == 5);
	FAILS(stat("r1", &st), ENOENT);
	FAILS(rename("none", "r2"), ENOENT);
	FAILS(rename("r2", "d"), EISDIR);
	FAILS(rename("d", "r2"), ENOTDIR);
	FAILS(rename("d", "d/e/d"), EINVAL);
	CHECK(rename("r2", "r2") == 0 && rename("d/e", "moved") == 0 && stat("moved", &st) == 0 && S_ISDIR(st.st_mode));
	CHECK(mkdir("full", 0700) == 0 && create("full/x", "x"));
	FAILS(rename("moved", "full"), ENOTEMPTY);
	CHECK(rename("full", "moved") == 0 && stat("moved/x", &st) == 0);
	FAILS(syscall(SYS_renameat2, AT_FDCWD, "r2", AT_FDCWD, "d/f", 1), EEXIST);
	CHECK(syscall(SYS_renameat2, AT_FDCWD, "r2", AT_FDCWD, "d/f", 2) == 0 && stat("r2", &st) == 0 && st.st_size == 1);
	CHECK(unlink("moved/x") == 0 && rmdir("moved") == 0);

	/* Modes, times, access. */
	CHECK(chmod("r2", 04751) == 0 && stat("r2", &st) == 0 && (st.st_mode & 07777) == 04751);
	CHECK(access("r2", R_OK | X_OK) == 0);
	FAILS(access("none", F_OK), ENOENT);
	struct timespec times[2] = { { 1000000000, 5 }, { 1100000000, 7 } };
	CHECK(utimensat(AT_FDCWD, "r2", times, 0) == 0 && stat("r2", &st) == 0 && st.st_atim.tv_sec == 1000000000 && st.st_mtim.tv_sec == 1100000000 && st.st_mtim.tv_nsec == 7);
	times[0].tv_nsec = UTIME_OMIT;
	times[1].tv_nsec = UTIME_NOW;
	CHECK(utimensat(AT_FDCWD, "r2", times, 0) == 0 && stat("r2", &st) == 0 && st.st_atim.tv_sec == 1000000000 && st.st_mtim.tv_sec > 1500000000);
	struct statx sx;
	CHECK(syscall(SYS_statx, AT_FDCWD, "r2", 0, STATX_BASIC_STATS, &sx) == 0 && sx.stx_size == 1 && sx.stx_mode == st.st_mode);
	struct statvfs vfs;
	CHECK(statvfs(".", &vfs) == 0 && vfs.f_namemax == 255 && vfs.f_bsize == 4096);

	/* Locks within one process, and flags. */
	CHECK((fd = open("r2", O_RDWR)) >= 0 && (fd2 = open("r2", O_RDWR)) >= 0 && flock(fd, LOCK_EX) == 0);
	FAILS(flock(fd2, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	CHECK(flock(fd, LOCK_UN) == 0 && flock(fd2, LOCK_SH | LOCK_NB) == 0 && flock(fd, LOCK_SH | LOCK_NB) == 0);
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10 };
	CHECK(fcntl(fd, F_SETLK, &lock) == 0 && fcntl(fd2, F_GETLK, &lock) == 0 && lock.l_type == F_UNLCK);
	CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR && fcntl(fd, F_SETFL, O_APPEND) == 0 && (fcntl(fd, F_GETFL) & O_APPEND));
	close(fd); close(fd2);
	CHECK((fd = open("/tmp", O_RDWR | O_TMPFILE, 0600)) >= 0 && write(fd, "x", 1) == 1 && fstat(fd, &st) == 0 && st.st_nlink == 0);
	close(fd);
	CHECK((fd = open("d", O_PATH)) >= 0 && fstat(fd, &st) == 0);
	FAILS(read(fd, buf, 1), EBADF);
	close(fd);
	FAILS(close(fd), EBADF);
	CHECK(realpath("d/../d/./f", buf) && !strcmp(buf, DIR_ "/d/f"));
	CHECK(open("/../../tmp/files-test/d//f", O_RDONLY) >= 0);

	/* A FIFO, and cleaning up. */
	CHECK(mkfifo("fifo", 0600) == 0 && stat("fifo", &st) == 0 && S_ISFIFO(st.st_mode));
	FAILS(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
	CHECK((fd = open("fifo", O_RDONLY | O_NONBLOCK)) >= 0 && (fd2 = open("fifo", O_WRONLY)) >= 0 && write(fd2, "f", 1) == 1 && read(fd, buf, 9) == 1);
	CHECK(unlink("fifo") == 0 && unlink("a") == 0 && unlink("r2") == 0 && unlink("d/f") == 0 && rmdir("d") == 0);
	CHECK(names(".", list) == 2);
	CHECK(chdir("/") == 0 && rmdir(DIR_) == 0);
	return DONE();
}
