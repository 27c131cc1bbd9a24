// Steady-state training allocates nothing. This program replaces the allocation functions and notes who calls them while a
// four-stage ResNet-20 trains: the engine must not. (oneDNN makes itself a small table of arguments whenever it is called, and its
// matrix product a place to pack into, and gives both back; they are told from the engine's by where the call comes from.)
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <malloc.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>

#include "picture_batches.h"
#include "engine/memory.h"
#include "models/models.h"
#include "pipeline/train/trainer.h"

extern "C" void* __libc_malloc(size_t);
extern "C" void* __libc_calloc(size_t, size_t);
extern "C" void* __libc_realloc(void*, size_t);
extern "C" void* __libc_memalign(size_t, size_t);

namespace {

constexpr size_t most_calls = 1 << 16;
struct Call {
  void* caller;
  size_t bytes;
};
Call calls[most_calls];
std::atomic<size_t> call_count = 0;
std::atomic<bool> counting = false;
std::atomic<int> threads_left = 1 << 30;  // before the system refuses one

void note(void* caller, size_t bytes) {
  if (!counting) return;
  size_t at = call_count++;
  if (at < most_calls) calls[at] = {caller, bytes};
}

}  // namespace

extern "C" {
void* malloc(size_t bytes) {
  note(__builtin_return_address(0), bytes);
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  note(__builtin_return_address(0), count * bytes);
  return __libc_calloc(count, bytes);
}
void* realloc(void* old, size_t bytes) {
  note(__builtin_return_address(0), bytes);
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  note(__builtin_return_address(0), bytes);
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, size_t alignment, size_t bytes) {
  note(__builtin_return_address(0), bytes);
  *out = __libc_memalign(alignment, bytes);
  return *out ? 0 : ENOMEM;
}
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument) {
  static const auto create = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return threads_left-- > 0 ? create(thread, attributes, start, argument) : EAGAIN;
}
}
// libstdc++'s own would hide who calls.
void* operator new(size_t bytes) {
  note(__builtin_return_address(0), bytes);
  if (void* p = __libc_malloc(bytes)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { free(p); }
void operator delete(void* p, size_t) noexcept { free(p); }

using namespace pipecast;
using testing::PictureBatches;

TEST_CASE("training allocates nothing after its first steps") {
  PictureSet data = generate_shapes("60");
  for (std::string executor : {"sequential", "threads"})
    for (std::string optimizer : {"sgd", "adamw"}) {
      TrainerOptions o;
      o.stages = 4, o.threads = 4, o.batch = 4;
      o.executor = executor;
      o.optimizer.name = optimizer;
      o.schedule.rate = 0.001f;
      Trainer trainer(make_model("resnet20", {}), o);
      PictureBatches batches(data, data.train, o.batch, true, {.crop = true, .flip = true}, 1);
      Trace trace(o.stages, 0, 15);
      if (optimizer == "adamw") trainer.record(&trace);  // nor with somebody looking on
      int64_t memory = 0, held = 0, held_at_end = 0;
      call_count = 0;
      trainer.train(batches, 0, 15, [&](int64_t done) {
        trainer.mean_loss();
        if (done == 5) memory = memory_in_use(), held = int64_t(mallinfo2().uordblks), counting = true;
        if (done == 15) held_at_end = int64_t(mallinfo2().uordblks), counting = false;
      });
      counting = false;
      REQUIRE(call_count < most_calls);
      CHECK(memory_in_use() == memory);
      CHECK(std::abs(held_at_end - held) < (1 << 18));  // what oneDNN holds in that instant comes and goes

      size_t of_engine = 0, of_library = 0, largest = 0;
      for (size_t i = 0; i < call_count; ++i) {
        Dl_info info{};
        const char* file = dladdr(calls[i].caller, &info) && info.dli_fname ? info.dli_fname : "";
        if (std::strstr(file, "dnnl")) ++of_library, largest = std::max(largest, calls[i].bytes);
        else ++of_engine;
      }
      CHECK(of_engine == 0);
      MESSAGE(executor, ", ", optimizer, ": ", of_engine, " allocations by the engine, ", of_library, " inside oneDNN, the largest of ",
              largest, " bytes");
    }
}

TEST_CASE("a thread that the system refuses is an exception, and those before it end") {
  TrainerOptions o;
  o.stages = 4, o.threads = 4, o.batch = 4;
  for (int threads : {0, 2}) {
    threads_left = threads;
    CHECK_THROWS_AS(Trainer(make_model("resnet20", {}), o), std::system_error);
  }
  threads_left = 1 << 30;
}

TEST_CASE("the counters count") {
  call_count = 0;
  counting = true;
  delete new int;
  free(malloc(10));
  counting = false;
  CHECK(call_count >= 1);  // the compiler may leave out the second pair
}
