/* Device nodes that root makes: a device is its number, wherever its node is, unless the mount says that there are none. */
#include "check.h"
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#define DIR_ "/tmp/device-nodes"

int main(void)
{
	char bytes[16] = "x";
	struct stat st;
	struct statvfs fs;
	int fd;

	CHECK(mkdir(DIR_, 0755) == 0 && chdir(DIR_) == 0);
	CHECK(mknod("null", S_IFCHR | 0600, makedev(1, 3)) == 0 && mknod("zero", S_IFCHR | 0600, makedev(1, 5)) == 0);
	CHECK(mknod("none", S_IFCHR | 0600, makedev(1, 99)) == 0 && mknod("disk", S_IFBLK | 0600, makedev(8, 0)) == 0);
	CHECK((fd = open("null", O_RDWR | O_TRUNC)) >= 0 && write(fd, bytes, 16) == 16 && read(fd, bytes, 16) == 0);
	CHECK(fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3) && close(fd) == 0);
	CHECK((fd = open("zero", O_RDONLY)) >= 0 && read(fd, bytes, 16) == 16 && bytes[0] == 0 && close(fd) == 0);
	FAILS(open("none", O_RDONLY), ENXIO);
	FAILS(open("disk", O_RDONLY), ENXIO);

	CHECK(mkdir("m", 0755) == 0 && mount("none", "m", "tmpfs", MS_NODEV | MS_NOSUID, NULL) == 0);
	CHECK(statvfs("m", &fs) == 0 && (fs.f_flag & ST_NODEV) && (fs.f_flag & ST_NOSUID));
	CHECK(mknod("m/null", S_IFCHR | 0600, makedev(1, 3)) == 0 && stat("m/null", &st) == 0);
	FAILS(open("m/null", O_RDWR), EACCES);
	CHECK((fd = open("m/null", O_PATH)) >= 0 && close(fd) == 0);
	CHECK(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND, NULL) == 0);
	CHECK((fd = open("m/null", O_RDWR)) >= 0 && close(fd) == 0);
	CHECK(umount("m") == 0);
	return DONE();
}
