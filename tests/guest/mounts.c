/* Mounts by root: file systems in memory, parts of the tree shown twice, read-only ones, and what is in the way of taking them away. */
#include "check.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#define DIR_ "/tmp/mounts-test"

static int put(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0644);
	return fd >= 0 && close(fd) == 0;
}

/* Whether a line of /proc/self/mountinfo has this mount point. */
static int listed(const char *point)
{
	char line[4096], found[4096];
	int yes = 0;
	FILE *mounts = fopen("/proc/self/mountinfo", "r");
	while (mounts && fgets(line, sizeof line, mounts))
		yes |= sscanf(line, "%*d %*d %*s %*s %4095s", found) == 1 && !strcmp(found, point);
	if (mounts)
		fclose(mounts);
	return yes;
}

int main(void)
{
	struct statfs fs;
	struct stat st;
	int fd, status;

	CHECK(mkdir(DIR_, 0755) == 0 && chdir(DIR_) == 0 && mkdir("m", 0755) == 0 && mkdir("b", 0755) == 0);
	FAILS(mount("none", "m", "no-such-type", 0, NULL), ENODEV);
	FAILS(mount("none", "none", "tmpfs", 0, NULL), ENOENT);
	FAILS(mount("none", "m", "tmpfs", 0, "size=lots"), EINVAL);
	FAILS(umount2("m", 0), EINVAL);
	FAILS(umount2("m", 0x100), EINVAL);
	CHECK(mount("name", "m", "tmpfs", 0, "size=64k,mode=700") == 0 && listed(DIR_ "/m"));
	CHECK(stat("m", &st) == 0 && (st.st_mode & 07777) == 0700 && statfs("m", &fs) == 0 && fs.f_type == 0x01021994);
	CHECK(fs.f_blocks * fs.f_bsize == 65536 && put("m/f") && mkdir("m/d", 0755) == 0);
	FAILS(rename("m/f", "f"), EXDEV);
	FAILS(link("m/f", "f"), EXDEV);
	FAILS(rmdir("m"), EBUSY);
	FAILS(rename("m", "n"), EBUSY);
	CHECK((fd = open("m/f", O_RDWR)) >= 0 && ftruncate(fd, 65536 * 2) == 0);
	FAILS(fallocate(fd, 0, 0, 65536 * 2), ENOSPC);
	FAILS(umount2("m", 0), EBUSY);

	CHECK(mount("m/d", "b", NULL, MS_BIND, NULL) == 0 && put("b/through") && access("m/d/through", F_OK) == 0);
	CHECK(listed(DIR_ "/b") && chdir("b") == 0 && chdir("..") == 0 && access("m", F_OK) == 0);
	CHECK(mount(NULL, "b", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0);
	FAILS(open("b/more", O_WRONLY | O_CREAT, 0600), EROFS);
	FAILS(unlink("b/through"), EROFS);
	FAILS(chmod("b/through", 0600), EROFS);
	CHECK(put("m/d/more") && access("b/more", F_OK) == 0);
	FAILS(mount(NULL, "b/more", NULL, MS_REMOUNT | MS_BIND, NULL), EINVAL);
	CHECK(umount2("b", 0) == 0 && !listed(DIR_ "/b") && access("b/more", F_OK) == -1);
	CHECK(mount("m/f", "m/d/more", NULL, MS_BIND, NULL) == 0 && stat("m/d/more", &st) == 0 && st.st_size == 65536 * 2);
	FAILS(unlink("m/d/more"), EBUSY);
	FAILS(mount("m", "m/f", NULL, MS_BIND, NULL), ENOTDIR);
	CHECK(umount2("m/d/more", 0) == 0 && unlink("m/d/more") == 0);

	CHECK(umount2("m", MNT_DETACH) == 0 && !listed(DIR_ "/m") && access("m/f", F_OK) == -1 && pwrite(fd, "x", 1, 0) == 1);
	CHECK(close(fd) == 0 && mount("again", "m", "tmpfs", MS_RDONLY, NULL) == 0);
	FAILS(open("m/f", O_WRONLY | O_CREAT, 0600), EROFS);
	CHECK(umount("m") == 0 && mount("proc", "m", "proc", 0, NULL) == 0 && access("m/self/stat", R_OK) == 0 && umount("m") == 0);

	CHECK(mount("none", "m", "tmpfs", MS_NOEXEC, NULL) == 0 && (fd = open("m/f", O_RDWR | O_CREAT, 0755)) >= 0 && write(fd, "#!/bin/sh\n", 10) == 10);
	CHECK(fchmod(fd, 0755) == 0 && fstatfs(fd, &fs) == 0 && (fs.f_flags & ST_NOEXEC) && access("m", X_OK) == 0);
	FAILS(access("m/f", X_OK), EACCES);
	FAILS(execl("m/f", "f", NULL), EACCES);
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED && errno == EPERM);
	CHECK(mount(NULL, "m", NULL, MS_REMOUNT, NULL) == 0 && access("m/f", X_OK) == 0 && close(fd) == 0 && umount("m") == 0);
	if (fork() == 0) {
		int denied = setuid(1000) == 0 && mount("none", "m", "tmpfs", 0, NULL) == -1 && errno == EPERM;
		_exit(denied && umount2("m", 0) == -1 && errno == EPERM ? 3 : 4);
	}
	CHECK(wait(&status) > 0 && WEXITSTATUS(status) == 3);
	CHECK(rmdir("m") == 0 && rmdir("b") == 0 && chdir("/") == 0 && rmdir(DIR_) == 0);
	return DONE();
}
