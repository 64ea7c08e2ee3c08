/* Pseudo terminals, both sides in one program: sessions, signals, settings, hang-up, packets. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <termios.h>

static int open_master(char *name, size_t size)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, name, size))
		exit(99);
	return master;
}

/* Reads until `text` has been seen, behind what was seen before. */
static int await_text(int fd, const char *text)
{
	static char seen[8192];
	static size_t n, from;
	for (;;) {
		char *found = strstr(seen + from, text);
		if (found) {
			from = found + strlen(text) - seen;
			return 1;
		}
		struct pollfd poller = { .fd = fd, .events = POLLIN };
		if (n == sizeof seen - 1 || poll(&poller, 1, 20000) != 1)
			return 0;
		ssize_t got = read(fd, seen + n, sizeof seen - 1 - n);
		if (got <= 0)
			return 0;
		n += got;
	}
}

static void type(int fd, const char *text)
{
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		exit(98);
}

static void names(void)
{
	char name[64];
	struct stat st;
	struct statfs fs;
	int master = open_master(name, sizeof name), number = -1, locked = -1;
	CHECK(strncmp(name, "/dev/pts/", 9) == 0);
	CHECK(ioctl(master, TIOCGPTN, &number) == 0 && number == atoi(name + 9));
	CHECK(ioctl(master, TIOCGPTLCK, &locked) == 0 && locked == 0);
	CHECK(stat(name, &st) == 0 && S_ISCHR(st.st_mode) && major(st.st_rdev) == 136 && minor(st.st_rdev) == (unsigned)number);
	CHECK(statfs("/dev/pts", &fs) == 0 && fs.f_type == 0x1cd1);
	CHECK(isatty(master));
	int slave = open(name, O_RDWR | O_NOCTTY);
	CHECK(slave >= 0 && isatty(slave) && ttyname(slave) && strcmp(ttyname(slave), name) == 0);
	FAILS(ioctl(slave, TIOCGPTN, &number), ENOTTY);
	int peer = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	CHECK(peer >= 0 && fstat(peer, &st) == 0 && minor(st.st_rdev) == (unsigned)number);
	close(peer);
	close(slave);
	close(master);
	FAILS(open(name, O_RDWR | O_NOCTTY), ENOENT);
	/* Locked at first. */
	master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
	ioctl(master, TIOCGPTN, &number);
	snprintf(name, sizeof name, "/dev/pts/%d", number);
	FAILS(open(name, O_RDWR | O_NOCTTY), EIO);
	close(master);
}

static void settings(void)
{
	char name[64], buffer[100];
	int master = open_master(name, sizeof name), slave = open(name, O_RDWR | O_NOCTTY);
	struct termios t;
	struct winsize w = { .ws_row = 11, .ws_col = 22, .ws_xpixel = 3, .ws_ypixel = 4 };
	CHECK(tcgetattr(slave, &t) == 0);
	CHECK(t.c_lflag == (ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN));
	CHECK(t.c_iflag == (ICRNL | IXON) || t.c_iflag == (ICRNL | IXON | IUTF8));
	CHECK(t.c_oflag == (OPOST | ONLCR) && t.c_cc[VINTR] == 3 && t.c_cc[VEOF] == 4 && t.c_cc[VMIN] == 1);
	CHECK(ioctl(master, TIOCSWINSZ, &w) == 0);
	memset(&w, 0, sizeof w);
	CHECK(ioctl(slave, TIOCGWINSZ, &w) == 0 && w.ws_row == 11 && w.ws_col == 22 && w.ws_xpixel == 3 && w.ws_ypixel == 4);
	/* A line, its echo, and the end of file. */
	type(master, "hi\r");
	CHECK(read(slave, buffer, sizeof buffer) == 3 && memcmp(buffer, "hi\n", 3) == 0);
	CHECK(read(master, buffer, sizeof buffer) == 4 && memcmp(buffer, "hi\r\n", 4) == 0);
	type(master, "ab\x7f" "c\x04");
	CHECK(read(slave, buffer, sizeof buffer) == 2 && memcmp(buffer, "ac", 2) == 0);
	type(master, "\x04");
	CHECK(read(slave, buffer, sizeof buffer) == 0);
	/* Tabs as blanks, small letters as capitals. */
	t.c_oflag = OPOST | XTABS | OLCUC;
	t.c_lflag &= ~ECHO;
	CHECK(tcsetattr(slave, TCSAFLUSH, &t) == 0);
	while (poll(&(struct pollfd) { .fd = master, .events = POLLIN }, 1, 0) == 1)
		(void)!read(master, buffer, sizeof buffer);
	type(slave, "\ra\tb");
	CHECK(read(master, buffer, sizeof buffer) == 10 && memcmp(buffer, "\rA       B", 10) == 0);
	/* Raw: bytes as they come; VMIN 0 does not wait. */
	cfmakeraw(&t);
	t.c_cc[VMIN] = 0;
	t.c_cc[VTIME] = 0;
	tcsetattr(slave, TCSANOW, &t);
	CHECK(read(slave, buffer, sizeof buffer) == 0);
	type(master, "\x03\r");
	CHECK(poll(&(struct pollfd) { .fd = slave, .events = POLLIN }, 1, 20000) == 1);
	int waiting = 0;
	CHECK(ioctl(slave, FIONREAD, &waiting) == 0 && waiting == 2);
	CHECK(read(slave, buffer, sizeof buffer) == 2 && buffer[0] == 3 && buffer[1] == '\r');
	type(master, "lost");
	CHECK(poll(&(struct pollfd) { .fd = slave, .events = POLLIN }, 1, 20000) == 1);
	CHECK(tcflush(slave, TCIFLUSH) == 0 && ioctl(slave, FIONREAD, &waiting) == 0 && waiting == 0);
	close(slave);
	/* Nobody is there: an error, until somebody is. */
	FAILS(read(master, buffer, sizeof buffer), EIO);
	struct pollfd poller = { .fd = master, .events = POLLIN };
	CHECK(poll(&poller, 1, 0) == 1 && (poller.revents & POLLHUP));
	slave = open(name, O_RDWR | O_NOCTTY);
	CHECK(poll(&poller, 1, 0) == 0);
	close(master);
	CHECK(read(slave, buffer, sizeof buffer) == 0);
	FAILS(write(slave, "x", 1), EIO);
	FAILS(tcgetattr(slave, &t), EIO);
	close(slave);
}

static volatile sig_atomic_t got[65];

static void on_signal(int signal)
{
	got[signal]++;
}

/* Not by pause(): the signal may come just before it. */
static void await_signal(int signal)
{
	while (!got[signal])
		sleep_ms(5);
}

/* A session on the terminal; says what it sees. */
static void session(const char *name)
{
	char c;
	setsid();
	if (open("/dev/tty", O_RDWR) != -1 || errno != ENXIO)
		_exit(1);
	int tty = open(name, O_RDWR);
	if (tcgetsid(tty) != getpid() || tcgetpgrp(tty) != getpgrp() || open("/dev/tty", O_RDWR) < 0)
		_exit(2);
	int signals[] = { SIGINT, SIGQUIT, SIGWINCH, SIGHUP, SIGCONT };
	for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
		sigaction(signals[i], &(struct sigaction) { .sa_handler = on_signal }, NULL);
	type(tty, "ready\n");
	await_signal(SIGINT);
	type(tty, "interrupted\n");
	await_signal(SIGQUIT);
	type(tty, "quit\n");
	await_signal(SIGWINCH);
	type(tty, "resized\n");
	/* A background job reads, writes and changes settings. */
	int status;
	pid_t job = fork();
	if (job == 0) {
		setpgid(0, 0);
		(void)!read(tty, &c, 1);
		struct termios t;
		tcgetattr(tty, &t);
		t.c_lflag |= TOSTOP;
		tcsetattr(tty, TCSANOW, &t);
		type(tty, "job writes\n");
		_exit(9);
	}
	setpgid(job, job);
	if (waitpid(job, &status, WUNTRACED) != job || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTTIN)
		_exit(3);
	type(tty, "job wanted to read\n");
	/* To the foreground it may. */
	if (tcsetpgrp(tty, job) || tcgetpgrp(tty) != job)
		_exit(4);
	kill(-job, SIGCONT);
	signal(SIGTTOU, SIG_IGN);
	type(tty, "type\n");
	/* It reads what is typed; then it is in the background again. */
	while (waitpid(job, &status, WNOHANG) == 0 && tcgetpgrp(tty) == job) {
		int left = 1;
		if (ioctl(tty, FIONREAD, &left) == 0 && got[SIGHUP] == 0 && waitpid(job, &status, WNOHANG) == job)
			break;
		sleep_ms(5);
	}
	if (tcsetpgrp(tty, getpgrp()))
		_exit(5);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 9)
		_exit(6);
	type(tty, "job done\n");
	while (!got[SIGHUP] || !got[SIGCONT])
		sleep_ms(5);
	_exit(open("/dev/tty", O_RDWR) == -1 && errno == ENXIO ? 42 : 7);
}

static void sessions(void)
{
	char name[64];
	int master = open_master(name, sizeof name), status;
	pid_t pid = fork();
	if (pid == 0) {
		close(master);
		session(name);
	}
	CHECK(await_text(master, "ready"));
	CHECK(tcgetsid(master) == pid);
	type(master, "\x03");
	CHECK(await_text(master, "interrupted"));
	type(master, "\x1c");
	CHECK(await_text(master, "quit"));
	struct winsize w = { .ws_row = 5, .ws_col = 6 };
	ioctl(master, TIOCSWINSZ, &w);
	CHECK(await_text(master, "resized"));
	CHECK(await_text(master, "job wanted to read"));
	CHECK(await_text(master, "type"));
	type(master, "x\n");
	CHECK(await_text(master, "job done"));
	close(master);
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

static void packets(void)
{
	char name[64], buffer[100];
	int master = open_master(name, sizeof name), slave = open(name, O_RDWR | O_NOCTTY), on = 1;
	CHECK(ioctl(master, TIOCPKT, &on) == 0 && ioctl(master, TIOCGPKT, &on) == 0 && on == 1);
	type(slave, "data");
	CHECK(read(master, buffer, sizeof buffer) == 5 && buffer[0] == TIOCPKT_DATA && memcmp(buffer + 1, "data", 4) == 0);
	CHECK(tcflow(slave, TCOOFF) == 0);
	CHECK(read(master, buffer, sizeof buffer) == 1 && buffer[0] == TIOCPKT_STOP);
	CHECK(tcflow(slave, TCOON) == 0);
	CHECK(read(master, buffer, sizeof buffer) == 1 && buffer[0] == TIOCPKT_START);
	CHECK(tcflush(slave, TCIFLUSH) == 0);
	struct pollfd poller = { .fd = master, .events = POLLPRI };
	CHECK(poll(&poller, 1, 0) == 1 && (poller.revents & POLLPRI));
	CHECK(read(master, buffer, sizeof buffer) == 1 && buffer[0] == TIOCPKT_FLUSHREAD);
	close(slave);
	close(master);
}

int main(void)
{
	names();
	settings();
	sessions();
	packets();
	return DONE();
}
