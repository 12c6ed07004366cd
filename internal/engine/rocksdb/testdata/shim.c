// A library to be loaded before the C library (LD_PRELOAD). Every call on a file below a directory is first told
// to a server, which keeps a model of what a power cut would leave of those files, and which answers with the error
// that the call is to have, or none. Go's own calls do not pass here, so the server can be in the same process.
//
//   DOLMEN_SHIM_ROOT    the directory, with a slash at its end
//   DOLMEN_SHIM_SOCKET  where the server listens
//
// A message is a struct message, then the path, then the data; the answer is an int.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { max_files = 4096 };

struct message {
	uint32_t call; // a letter, see shim_test.go
	int32_t file;
	uint64_t offset;
	uint32_t path_length, data_length;
};

// lock is held from the question to the end of the call, so that the model and the files go in step.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *paths[max_files]; // of open files below the root
static int server = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int watched(const char *path) {
	const char *root = getenv("DOLMEN_SHIM_ROOT");
	return root != NULL && path != NULL && strncmp(path, root, strlen(root)) == 0;
}

// give_up ends the process: a test that goes on without the server would prove nothing.
static void give_up(const char *what) {
	fprintf(stderr, "shim: %s: %s\n", what, strerror(errno));
	abort();
}

static void reach_server(void) {
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *path = getenv("DOLMEN_SHIM_SOCKET");
	if (path == NULL || strlen(path) >= sizeof(address.sun_path)) {
		give_up("DOLMEN_SHIM_SOCKET");
	}
	strcpy(address.sun_path, path);
	server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof(address)) != 0) {
		give_up("connect to the server");
	}
}

static void transfer(int sending, void *data, size_t length) {
	for (char *at = data; length > 0;) {
		ssize_t n = sending ? send(server, at, length, MSG_NOSIGNAL) : recv(server, at, length, 0);
		if (n > 0) {
			at += n;
			length -= (size_t)n;
		} else if (n == 0 || errno != EINTR) {
			give_up("speak to the server");
		}
	}
}

// ask tells the server of a call and returns 0 if it is to be made. Otherwise errno is the error it is to have.
static int ask(char call, int file, const char *path, uint64_t offset, const void *data, size_t length) {
	struct message message = {(uint32_t)call, file, offset, (uint32_t)strlen(path), (uint32_t)length};
	if (server < 0) {
		reach_server();
	}
	transfer(1, &message, sizeof(message));
	transfer(1, (void *)path, message.path_length);
	transfer(1, (void *)data, length);
	int answer;
	transfer(0, &answer, sizeof(answer));
	errno = answer;
	return answer;
}

static int is_watched(int file) { return file >= 0 && file < max_files && paths[file] != NULL; }

static void forget(int file) {
	if (is_watched(file)) {
		free(paths[file]);
		paths[file] = NULL;
	}
}

int open(const char *path, int flags, ...) {
	va_list rest;
	va_start(rest, flags);
	int mode = flags & O_CREAT ? va_arg(rest, int) : 0;
	va_end(rest);
	pthread_mutex_lock(&lock);
	int file = -1;
	char call = flags & O_CREAT ? 'c' : 'o';
	if (!watched(path) || ask(call, -1, path, 0, NULL, 0) == 0) {
		file = REAL(open)(path, flags, mode);
		forget(file);
		if (file >= max_files) {
			give_up("too many files");
		}
		if (file >= 0 && watched(path)) {
			paths[file] = strdup(path);
			ask('=', file, path, 0, NULL, 0);
		}
	}
	int error = errno;
	pthread_mutex_unlock(&lock);
	errno = error;
	return file;
}

// On a file that is open: question, answer, call. A file that is not watched belongs to its caller alone.
#define ON_FILE(type, file, call, offset, data, length, made)                                                          \
	do {                                                                                                               \
		if (!is_watched(file)) {                                                                                       \
			return (made);                                                                                             \
		}                                                                                                              \
		pthread_mutex_lock(&lock);                                                                                     \
		type result = -1;                                                                                              \
		if (ask(call, file, paths[file], (uint64_t)(offset), data, length) == 0) {                \
			result = (made);                                                                                           \
		}                                                                                                              \
		int error = errno;                                                                                             \
		pthread_mutex_unlock(&lock);                                                                                   \
		errno = error;                                                                                                 \
		return result;                                                                                                 \
	} while (0)

ssize_t write(int file, const void *data, size_t length) {
	ON_FILE(ssize_t, file, 'w', UINT64_MAX, data, length, REAL(write)(file, data, length));
}

ssize_t pwrite(int file, const void *data, size_t length, off_t offset) {
	ON_FILE(ssize_t, file, 'w', offset, data, length, REAL(pwrite)(file, data, length, offset));
}

ssize_t pread(int file, void *data, size_t length, off_t offset) {
	ON_FILE(ssize_t, file, 'r', offset, NULL, 0, REAL(pread)(file, data, length, offset));
}

#undef fread_unlocked
size_t fread_unlocked(void *data, size_t size, size_t n, FILE *stream) {
	int file = fileno(stream);
	size_t result = 0;
	pthread_mutex_lock(&lock);
	if (!is_watched(file) || ask('r', file, paths[file], 0, NULL, 0) == 0) {
		result = REAL(fread_unlocked)(data, size, n, stream);
	}
	int error = errno;
	pthread_mutex_unlock(&lock);
	errno = error;
	return result;
}

// The model knows what is durable, so the disk need not.
int fsync(int file) { ON_FILE(int, file, 's', 0, NULL, 0, is_watched(file) ? 0 : REAL(fsync)(file)); }

int fdatasync(int file) { ON_FILE(int, file, 's', 0, NULL, 0, is_watched(file) ? 0 : REAL(fdatasync)(file)); }

int ftruncate(int file, off_t length) { ON_FILE(int, file, 't', length, NULL, 0, REAL(ftruncate)(file, length)); }

int fallocate(int file, int mode, off_t offset, off_t length) {
	ON_FILE(int, file, 'a', offset, NULL, 0, REAL(fallocate)(file, mode, offset, length));
}

// A file is closed even if that is to fail, as it is by the kernel.
int close(int file) {
	pthread_mutex_lock(&lock);
	int told = is_watched(file) ? ask('x', file, paths[file], 0, NULL, 0) : 0;
	forget(file);
	int result = REAL(close)(file);
	int error = told != 0 ? told : errno;
	pthread_mutex_unlock(&lock);
	errno = error;
	return told != 0 ? -1 : result;
}

// On a name.
#define ON_NAME(call, path, other, made)                                                                               \
	do {                                                                                                               \
		pthread_mutex_lock(&lock);                                                                                     \
		int result = -1;                                                                                               \
		if (!watched(path) || ask(call, -1, path, 0, other, strlen(other)) == 0) {                                     \
			result = (made);                                                                                           \
		}                                                                                                              \
		int error = errno;                                                                                             \
		pthread_mutex_unlock(&lock);                                                                                   \
		errno = error;                                                                                                 \
		return result;                                                                                                 \
	} while (0)

int rename(const char *from, const char *to) { ON_NAME('m', from, to, REAL(rename)(from, to)); }

int link(const char *from, const char *to) { ON_NAME('l', from, to, REAL(link)(from, to)); }

int unlink(const char *path) { ON_NAME('u', path, "", REAL(unlink)(path)); }
