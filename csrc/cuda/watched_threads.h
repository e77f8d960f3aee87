// What ThreadSanitizer is told of the emulated threads, where a build with it defines
// AEPPT_WATCHED.
//
// To it each of them is a fiber, and nothing but a barrier orders what two of them read and write.
#pragma once

#ifdef AEPPT_WATCHED
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace aeppt::emulated {

#ifdef AEPPT_WATCHED

using Fiber = void*;
inline Fiber make_fiber() { return __tsan_create_fiber(0); }
inline Fiber this_fiber() { return __tsan_get_current_fiber(); }
inline void end_fiber(Fiber fiber) { __tsan_destroy_fiber(fiber); }
// Part of its caller: a function would be left in another fiber than it was entered in.
[[gnu::always_inline]] inline void switch_to(Fiber fiber) {
  __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
}
inline void release(void* order) { __tsan_release(order); }
inline void acquire(void* order) { __tsan_acquire(order); }
// While one lives, what is read and written is the emulation's own business.
struct Unwatched {
  Unwatched() { AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~Unwatched() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
};

#else

struct Fiber {};
inline Fiber make_fiber() { return {}; }
inline Fiber this_fiber() { return {}; }
inline void end_fiber(Fiber) {}
inline void switch_to(Fiber) {}
inline void release(void*) {}
inline void acquire(void*) {}
struct Unwatched {
  Unwatched() {}
};

#endif

}  // namespace aeppt::emulated
