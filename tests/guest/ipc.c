/* System V semaphores and message queues, POSIX message queues. */
#include "check.h"
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
	struct seminfo *info;
};

static int op(int id, int number, int change, int flags)
{
	struct sembuf sem = {number, change, flags};
	return semop(id, &sem, 1);
}
static int child_status(pid_t pid)
{
	int status;
	return waitpid(pid, &status, 0) == pid ? status : -1;
}
/* Whether a line of a file in /proc/sysvipc has `id` in its second column. */
static int listed(const char *path, int id)
{
	char line[512];
	int key, found, yes = 0;
	FILE *file = fopen(path, "r");
	while (file && fgets(line, sizeof line, file))
		yes |= sscanf(line, "%d %d", &key, &found) == 2 && found == id;
	if (file)
		fclose(file);
	return yes;
}
static void nothing(int signal)
{
	(void)signal;
}

static void semaphores(void)
{
	unsigned short values[3] = {5, 0, 7};
	struct semid_ds ds;
	struct sembuf two[2] = {{0, -2, IPC_NOWAIT}, {1, -1, IPC_NOWAIT}};
	key_t key = 0x6f787600 + (getpid() & 0xff);
	int id, fds[2];
	char byte;
	pid_t child;

	FAILS(semget(key, 3, 0600), ENOENT);
	FAILS(semget(IPC_PRIVATE, 0, 0600), EINVAL);
	FAILS(semget(IPC_PRIVATE, -1, 0600), EINVAL);
	CHECK((id = semget(key, 3, IPC_CREAT | IPC_EXCL | 0640)) >= 0 && semget(key, 2, 0) == id);
	FAILS(semget(key, 3, IPC_CREAT | IPC_EXCL), EEXIST);
	FAILS(semget(key, 4, 0), EINVAL);
	CHECK(semctl(id, 0, SETALL, (union semun){.array = values}) == 0 && semctl(id, 2, GETVAL) == 7);
	CHECK(semctl(id, 0, IPC_STAT, (union semun){.buf = &ds}) == 0 && ds.sem_nsems == 3 && ds.sem_perm.mode == 0640 && ds.sem_perm.__key == key);
	CHECK(ds.sem_otime == 0 && ds.sem_ctime > 0 && listed("/proc/sysvipc/sem", id));
	FAILS(semop(id, two, 2), EAGAIN);
	CHECK(semctl(id, 0, GETVAL) == 5);
	two[1] = (struct sembuf){1, 0, IPC_NOWAIT};
	CHECK(semop(id, two, 2) == 0 && semctl(id, 0, GETVAL) == 3 && semctl(id, 0, GETPID) == getpid());
	FAILS(op(id, 3, 1, 0), EFBIG);
	FAILS(op(id, 0, 32767, 0), ERANGE);
	FAILS(op(id, 0, 0, IPC_NOWAIT), EAGAIN);
	FAILS(semop(id, two, 0), EINVAL);
	FAILS(semop(id, two, 501), E2BIG);
	FAILS(semop(id, NULL, 1), EFAULT);
	FAILS(semop(-1, two, 1), EINVAL);
	FAILS(semctl(id, 3, GETVAL), EINVAL);
	FAILS(semctl(id, 0, SETVAL, (union semun){.val = -1}), ERANGE);
	FAILS(semctl(id, 0, 99), EINVAL);
	struct timespec soon = {0, 10000000}, bad = {0, -1};
	struct sembuf down = {1, -1, 0};
	FAILS(semtimedop(id, &down, 1, &soon), EAGAIN);
	FAILS(semtimedop(id, &down, 1, &bad), EINVAL);

	/* A child's changes are undone when it ends; it waits for the parent, who counts it. */
	CHECK(pipe(fds) == 0);
	if ((child = fork()) == 0) {
		int ok = op(id, 0, -3, SEM_UNDO) == 0 && op(id, 2, 1, SEM_UNDO) == 0 && write(fds[1], "x", 1) == 1;
		_exit(ok && op(id, 1, -2, 0) == 0 ? 0 : 1);
	}
	CHECK(read(fds[0], &byte, 1) == 1 && semctl(id, 0, GETVAL) == 0 && semctl(id, 2, GETVAL) == 8);
	while (semctl(id, 1, GETNCNT) != 1)
		sleep_ms(1);
	CHECK(semctl(id, 1, GETZCNT) == 0 && op(id, 1, 2, 0) == 0 && child_status(child) == 0);
	CHECK(semctl(id, 0, GETVAL) == 3 && semctl(id, 1, GETVAL) == 0 && semctl(id, 2, GETVAL) == 7);

	/* Waiting for zero; a signal; the end of the set. */
	if ((child = fork()) == 0)
		_exit(op(id, 0, 0, 0) == 0 ? 0 : 1);
	while (semctl(id, 0, GETZCNT) != 1)
		sleep_ms(1);
	CHECK(op(id, 0, -3, 0) == 0 && child_status(child) == 0);
	if ((child = fork()) == 0) {
		struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
		sigaction(SIGUSR1, &action, NULL);
		if (op(id, 0, -1, 0) != -1 || errno != EINTR || write(fds[1], "x", 1) != 1)
			_exit(1);
		_exit(op(id, 0, -1, 0) == -1 && errno == EIDRM ? 0 : 2);
	}
	while (semctl(id, 0, GETNCNT) != 1)
		sleep_ms(1);
	kill(child, SIGUSR1);
	CHECK(read(fds[0], &byte, 1) == 1);
	while (semctl(id, 0, GETNCNT) != 1)
		sleep_ms(1);
	CHECK(semctl(id, 0, IPC_RMID) == 0 && child_status(child) == 0);
	FAILS(op(id, 0, 1, 0), EINVAL);
	close(fds[0]), close(fds[1]);
}

struct message {
	long type;
	char text[100];
};

static void messages(void)
{
	struct message m = {5, "five"};
	struct msqid_ds ds;
	key_t key = 0x6f787700 + (getpid() & 0xff);
	int id;
	pid_t child;

	FAILS(msgget(key, 0), ENOENT);
	CHECK((id = msgget(key, IPC_CREAT | 0600)) >= 0 && msgget(key, 0) == id && listed("/proc/sysvipc/msg", id));
	CHECK(msgsnd(id, &m, 5, 0) == 0);
	m = (struct message){3, "three"};
	CHECK(msgsnd(id, &m, 6, 0) == 0 && msgsnd(id, &m, 0, 0) == 0);
	CHECK(msgctl(id, IPC_STAT, &ds) == 0 && ds.msg_qnum == 3 && ds.msg_lspid == getpid() && ds.msg_qbytes == 16384);
	FAILS(msgrcv(id, &m, 3, 5, 0), E2BIG);
	CHECK(msgrcv(id, &m, 100, -4, 0) == 6 && m.type == 3 && !strcmp(m.text, "three"));
	CHECK(msgrcv(id, &m, 2, 3, MSG_EXCEPT | MSG_NOERROR) == 2 && m.type == 5 && !memcmp(m.text, "fi", 2));
	CHECK(msgrcv(id, &m, 100, 0, 0) == 0 && m.type == 3);
	FAILS(msgrcv(id, &m, 100, 0, IPC_NOWAIT), ENOMSG);
	m.type = 0;
	FAILS(msgsnd(id, &m, 1, 0), EINVAL);
	m.type = 1;
	FAILS(msgsnd(id, &m, 8193, 0), EINVAL);
	FAILS(msgsnd(id, NULL, 1, 0), EFAULT);
	FAILS(msgsnd(id + 1, &m, 1, 0), EINVAL);
	int sent = 0;
	while (msgsnd(id, &m, 100, IPC_NOWAIT) == 0)
		sent++;
	CHECK(errno == EAGAIN && sent == 163);
	/* A child that waits for room. */
	if ((child = fork()) == 0) {
		m.type = 9;
		_exit(msgsnd(id, &m, 100, 0) == 0 ? 0 : 1);
	}
	for (int i = 0; i < sent; i++)
		if (msgrcv(id, &m, 100, 1, 0) != 100)
			CHECK(0);
	CHECK(msgrcv(id, &m, 100, 9, 0) == 100 && child_status(child) == 0);
	CHECK(msgctl(id, IPC_STAT, &ds) == 0 && ds.msg_qnum == 0 && ds.msg_lspid == child && ds.msg_lrpid == getpid());
	ds.msg_qbytes = 10;
	CHECK(msgctl(id, IPC_SET, &ds) == 0);
	FAILS(msgsnd(id, &m, 11, IPC_NOWAIT), EAGAIN);
	/* One that waits when the queue goes. */
	if ((child = fork()) == 0)
		_exit(msgrcv(id, &m, 100, 7, 0) == -1 && (errno == EIDRM || errno == EINVAL) ? 0 : 1);
	sleep_ms(20);
	CHECK(msgctl(id, IPC_RMID, NULL) == 0 && child_status(child) == 0);
	FAILS(msgsnd(id, &m, 1, 0), EINVAL);
}

static volatile sig_atomic_t told, told_value, told_code;
static void on_message(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	told++;
	told_value = info->si_value.sival_int;
	told_code = info->si_code == SI_MESGQ;
}
static mqd_t shared;
static void *receiver(void *arg)
{
	char text[16];
	(void)arg;
	return (void *)(long)mq_receive(shared, text, sizeof text, NULL);
}

static void posix_queues(void)
{
	struct mq_attr attr = {.mq_maxmsg = 3, .mq_msgsize = 16};
	char name[40], path[80], text[16], line[200] = "";
	unsigned priority;
	pthread_t thread;
	void *result;
	mqd_t q, r;

	snprintf(name, sizeof name, "/queue-%d", getpid());
	FAILS(mq_open(name, O_RDWR), ENOENT);
	attr.mq_maxmsg = 0;
	FAILS(mq_open(name, O_RDWR | O_CREAT, 0600, &attr), EINVAL);
	attr.mq_maxmsg = 3;
	CHECK((q = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &attr)) >= 0);
	FAILS(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr), EEXIST);
	CHECK(mq_getattr(q, &attr) == 0 && attr.mq_maxmsg == 3 && attr.mq_msgsize == 16 && attr.mq_flags == O_NONBLOCK && attr.mq_curmsgs == 0);
	struct pollfd pfd = {q, POLLIN | POLLOUT, 0};
	CHECK(poll(&pfd, 1, 0) == 1 && pfd.revents == POLLOUT);
	CHECK(mq_send(q, "low", 3, 1) == 0 && mq_send(q, "high", 4, 7) == 0 && mq_send(q, "", 0, 1) == 0);
	FAILS(mq_send(q, "full", 4, 1), EAGAIN);
	CHECK(poll(&pfd, 1, 0) == 1 && pfd.revents == POLLIN);
	CHECK(mq_receive(q, text, 16, &priority) == 4 && priority == 7 && !memcmp(text, "high", 4));
	CHECK(mq_receive(q, text, 16, &priority) == 3 && priority == 1 && mq_receive(q, text, 16, NULL) == 0);
	FAILS(mq_receive(q, text, 16, NULL), EAGAIN);
	FAILS(mq_receive(q, text, 15, NULL), EMSGSIZE);
	FAILS(mq_send(q, line, 17, 0), EMSGSIZE);
	FAILS(mq_send(q, "x", 1, 32768), EINVAL);
	FAILS(mq_receive(0, text, 16, NULL), EBADF);
	CHECK((r = mq_open(name, O_RDONLY)) >= 0 && (fcntl(r, F_GETFD) & FD_CLOEXEC));
	FAILS(mq_send(r, "x", 1, 0), EBADF);
	struct timespec past = {1, 0}, bad = {0, 1000000000};
	FAILS(mq_timedreceive(r, text, 16, NULL, &past), ETIMEDOUT);
	FAILS(mq_timedreceive(r, text, 16, NULL, &bad), EINVAL);

	/* Told once, of the first message, unless somebody waits for it. */
	struct sigaction action = {.sa_sigaction = on_message, .sa_flags = SA_SIGINFO};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 42};
	sigaction(SIGUSR2, &action, NULL);
	CHECK(mq_notify(q, &event) == 0);
	FAILS(mq_notify(r, &event), EBUSY);
	CHECK(mq_send(q, "a", 1, 0) == 0 && mq_send(q, "b", 1, 0) == 0 && told == 1 && told_value == 42 && told_code);
	CHECK(mq_receive(q, text, 16, NULL) == 1 && mq_receive(q, text, 16, NULL) == 1 && mq_notify(q, NULL) == 0);
	/* A process that closes any of its descriptors of the queue is told no more. Signal 0 is none. */
	event.sigev_signo = 0;
	mqd_t other = mq_open(name, O_RDWR);
	CHECK(mq_notify(q, &event) == 0);
	FAILS(mq_notify(r, &event), EBUSY);
	CHECK(mq_close(other) == 0 && mq_notify(r, &event) == 0 && mq_notify(r, NULL) == 0);
	event.sigev_signo = 65;
	FAILS(mq_notify(q, &event), EINVAL);
	snprintf(path, sizeof path, "/dev/mqueue%s", name);
	CHECK(mq_send(q, "four", 4, 0) == 0);
	int fd = open(path, O_RDONLY);
	/* The file system may be missing in a container. */
	if (fd >= 0)
		(void)!(read(fd, line, sizeof line - 1));
	CHECK(fd < 0 || !strncmp(line, "QSIZE:4 ", 8));
	close(fd);
	CHECK(mq_receive(q, text, 16, NULL) == 4);
	shared = r;
	pthread_create(&thread, NULL, receiver, NULL);
	sleep_ms(20);
	CHECK(mq_send(q, "hello", 5, 0) == 0 && pthread_join(thread, &result) == 0 && (long)result == 5);
	attr.mq_flags = 0;
	CHECK(mq_setattr(q, &attr, NULL) == 0 && (fcntl(q, F_GETFL) & O_NONBLOCK) == 0);
	CHECK(mq_unlink(name) == 0 && mq_send(q, "still", 5, 0) == 0 && mq_receive(r, text, 16, NULL) == 5);
	FAILS(mq_unlink(name), ENOENT);
	FAILS(mq_open(name, O_RDWR), ENOENT);
	CHECK(mq_close(q) == 0 && mq_close(r) == 0);
}

int main(void)
{
	semaphores();
	messages();
	posix_queues();
	return DONE();
}
