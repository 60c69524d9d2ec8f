// What an exception that nobody catches leads to, in releases: the static libstdc++ would bring its demangler along to name
// it, 40 KB.
#include <cstdio>
#include <cstdlib>
#include <exception>

#if defined(__GLIBCXX__)
void __gnu_cxx::__verbose_terminate_handler() {
  std::fputs("auxgrad: an exception was not caught\n", stderr);
  std::abort();
}
#endif
