// Lets a release built on a new glibc load on an old one (2.28, what Node 20 itself needs). Linked into releases only,
// with -Wl,--wrap of each function here: the static libstdc++ asks for versions that came with the move of libpthread
// and libdl into libc (2.34) or later; the functions themselves are old. test/package checks the result symbol by symbol.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/random.h>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)
#define AUXGRAD_BASE "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define AUXGRAD_BASE "GLIBC_2.17"
#endif

// Declares old_<name>, bound to the oldest version of a function.
#define AUXGRAD_OLD(result, name, ...)       \
  extern "C" result old_##name(__VA_ARGS__); \
  __asm__(".symver old_" #name "," #name "@" AUXGRAD_BASE)

AUXGRAD_OLD(int, pthread_create, pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
AUXGRAD_OLD(int, pthread_join, pthread_t, void**);
AUXGRAD_OLD(int, pthread_detach, pthread_t);
AUXGRAD_OLD(int, pthread_once, pthread_once_t*, void (*)());
AUXGRAD_OLD(int, pthread_key_create, pthread_key_t*, void (*)(void*));
AUXGRAD_OLD(int, __pthread_key_create, pthread_key_t*, void (*)(void*));
AUXGRAD_OLD(int, pthread_key_delete, pthread_key_t);
AUXGRAD_OLD(void*, pthread_getspecific, pthread_key_t);
AUXGRAD_OLD(int, pthread_setspecific, pthread_key_t, const void*);
AUXGRAD_OLD(int, pthread_mutex_trylock, pthread_mutex_t*);
AUXGRAD_OLD(void*, dlopen, const char*, int);
AUXGRAD_OLD(void*, dlsym, void*, const char*);
AUXGRAD_OLD(char*, dlerror, void);

extern "C" {

// 2.32: false means "may be multithreaded", which is always right.
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;

int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument) {
  return old_pthread_create(thread, attributes, start, argument);
}
int __wrap_pthread_join(pthread_t thread, void** result) { return old_pthread_join(thread, result); }
int __wrap_pthread_detach(pthread_t thread) { return old_pthread_detach(thread); }
int __wrap_pthread_once(pthread_once_t* once, void (*body)()) { return old_pthread_once(once, body); }
int __wrap_pthread_key_create(pthread_key_t* key, void (*destroy)(void*)) {
  return old_pthread_key_create(key, destroy);
}
int __wrap___pthread_key_create(pthread_key_t* key, void (*destroy)(void*)) {
  return old___pthread_key_create(key, destroy);
}
int __wrap_pthread_key_delete(pthread_key_t key) { return old_pthread_key_delete(key); }
void* __wrap_pthread_getspecific(pthread_key_t key) { return old_pthread_getspecific(key); }
int __wrap_pthread_setspecific(pthread_key_t key, const void* value) { return old_pthread_setspecific(key, value); }
int __wrap_pthread_mutex_trylock(pthread_mutex_t* mutex) { return old_pthread_mutex_trylock(mutex); }
void* __wrap_dlopen(const char* file, int mode) { return old_dlopen(file, mode); }
void* __wrap_dlsym(void* library, const char* name) { return old_dlsym(library, name); }
char* __wrap_dlerror() { return old_dlerror(); }

// 2.36; getrandom is of 2.25.
uint32_t __wrap_arc4random() {
  uint32_t value = 0;
  size_t got = 0;
  while (got < sizeof value) {
    const ssize_t n = getrandom(reinterpret_cast<char*>(&value) + got, sizeof value - got, 0);
    if (n > 0) got += static_cast<size_t>(n);
    else if (errno != EINTR) std::abort();
  }
  return value;
}

}  // extern "C"
