// Device memory that the host cannot touch, page-locked memory, and what happens to those who touch what they must not.
//
// A block ends at the end of a page, and a page that nobody may touch lies at either side: an access beyond the end faults where it is made,
// one by a few bytes too many shows when the block is given back. Device memory is open only while a stream works whose
// operations were given an address in it. Freed memory keeps its addresses for a while and stays closed.
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "tests/simulated_cuda/machine.h"

namespace simulated_cuda {

namespace {

constexpr size_t alignment = 256, most_device_bytes = size_t(4) << 30, kept_freed = 2048, large_page = 2 << 20;
constexpr uint32_t nothing_written = 0x7fc17fc1;  // not a number, as fp32 and as two bf16
constexpr unsigned char guard = 0xa5;

size_t page() {
  static const size_t size = size_t(sysconf(_SC_PAGESIZE));
  return size;
}
size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Guarded by the machine's lock.
std::map<const char*, std::shared_ptr<Allocation>>& table() {
  static auto& all = *new std::map<const char*, std::shared_ptr<Allocation>>;
  return all;
}
std::deque<std::shared_ptr<Allocation>>& freed() {
  static auto& all = *new std::deque<std::shared_ptr<Allocation>>;
  return all;
}
size_t device_bytes = 0;

void protect(const Allocation& a, int how) {
  if (mprotect(a.mapping + page(), a.mapped - 2 * page(), how) != 0) stop("mprotect failed: the system has no more mappings");
}

std::shared_ptr<Allocation> find(const void* address) {
  const auto after = table().upper_bound(static_cast<const char*>(address));
  if (after == table().begin()) return nullptr;
  const std::shared_ptr<Allocation>& found = std::prev(after)->second;
  return static_cast<const char*>(address) < found->data + std::max<size_t>(found->bytes, 1) ? found : nullptr;
}

std::string name_of(const void* address) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", address);
  return text;
}

// A fault of a device operation goes back to where it was begun; any other is the host's.
thread_local sigjmp_buf* begun = nullptr;
struct sigaction before_segv, before_ill, before_bus;

void describe(const void* address) {
  std::shared_ptr<Allocation> found;
  std::string place = "no allocation";
  for (const auto& [data, a] : table()) {
    const auto* at = static_cast<const char*>(address);
    if (at < a->mapping || at >= a->mapping + a->mapped) continue;
    place = std::to_string(at - a->data) + " bytes into " + (a->freed ? "freed " : "") + (a->on_device ? "device" : "page-locked") + " memory of " +
            std::to_string(a->bytes) + " bytes";
  }
  say(std::string(begun ? "a device operation" : "the host") + " touched address " + name_of(address) + ": " + place);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  if (signal != SIGILL) describe(info->si_addr);
  else if (begun) say("a device operation made a misaligned access");
  if (begun) siglongjmp(*begun, signal);
  static bool told = false;  // a test framework's handler raises the signal once more
  if (std::exchange(told, true)) return void(::signal(signal, SIG_DFL));
  const struct sigaction& before = signal == SIGSEGV ? before_segv : signal == SIGBUS ? before_bus : before_ill;
  if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, context);
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
  ::signal(signal, SIG_DFL);  // the access is made again
}

void install(int signal, struct sigaction& before) {
  struct sigaction now, ours = {};
  sigaction(signal, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault) return;
  before = now;
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(signal, &ours, nullptr);
}

// Test frameworks set handlers of their own for each test.
void install_handlers() {
  install(SIGSEGV, before_segv);
  install(SIGBUS, before_bus);
  install(SIGILL, before_ill);
}

// Closing a block takes as long as it has pages. Leaves out what lies before the first large one.
void use_large_pages(Allocation& a, size_t inside) {
  char* end = a.mapping + a.mapped;
  const auto begin = reinterpret_cast<uintptr_t>(a.mapping + page());
  char* first = reinterpret_cast<char*>(rounded(begin, large_page));
  munmap(a.mapping, size_t(first - page() - a.mapping));
  munmap(first + inside + page(), size_t(end - (first + inside + page())));
  a.mapping = first - page(), a.mapped = inside + 2 * page();
  madvise(first, inside, MADV_HUGEPAGE);
}

cudaError_t allocate(void** memory, size_t bytes, bool on_device) {
  if (!memory) return error(cudaErrorInvalidValue);
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  auto a = std::make_shared<Allocation>();
  {
    const Lock lock;
    install_handlers();
    if (bytes > most_device_bytes || (on_device && device_bytes + bytes > most_device_bytes)) a = nullptr;
    else {
      const size_t inside = rounded(rounded(bytes, alignment), page());
      a->bytes = bytes, a->on_device = on_device, a->mapped = inside + 2 * page() + (inside >= large_page ? large_page : 0);
      void* mapping = mmap(nullptr, a->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (mapping == MAP_FAILED) stop("mmap failed");
      a->mapping = static_cast<char*>(mapping);
      if (inside >= large_page) use_large_pages(*a, inside);
      a->data = a->mapping + page() + inside - rounded(bytes, alignment);
      protect(*a, PROT_READ | PROT_WRITE);
      std::memset(a->mapping + page(), guard, inside);
      poison(a->data, bytes);
      if (on_device) protect(*a, PROT_NONE), device_bytes += bytes;
      table()[a->data] = a;
    }
  }
  if (!a) return error(cudaErrorMemoryAllocation);
  *memory = a->data;
  born(on_device ? "blocks of device memory" : "blocks of page-locked memory", a->data);
  return cudaSuccess;
}

// Guards are whole, and the block is closed from now on.
void give_back(const std::shared_ptr<Allocation>& a) {
  protect(*a, PROT_READ | PROT_WRITE);
  const auto untouched = [](char c) { return static_cast<unsigned char>(c) == guard; };
  const bool whole = std::all_of(a->mapping + page(), a->data, untouched) &&
                     std::all_of(a->data + a->bytes, a->mapping + a->mapped - page(), untouched);
  if (!whole) stop("memory beside a block of " + std::to_string(a->bytes) + " bytes was written");
  protect(*a, PROT_NONE);
  madvise(a->mapping, a->mapped, MADV_DONTNEED);
  a->freed = true;
  if (a->on_device) device_bytes -= a->bytes;
  freed().push_back(a);
  if (freed().size() > kept_freed) {
    table().erase(freed().front()->data);
    munmap(freed().front()->mapping, freed().front()->mapped);
    freed().pop_front();
  }
}

cudaError_t release(void* memory, bool on_device, const char* call) {
  if (!memory) return cudaSuccess;
  if (const cudaError_t refused = refuse_in_any_capture(call); refused != cudaSuccess) return error(refused);
  drain();  // as the real one does
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  if (!died(on_device ? "blocks of device memory" : "blocks of page-locked memory", memory))
    return error(cudaErrorInvalidValue, std::string(call) + ": " + name_of(memory) + " was not given out by it, or is freed already");
  const Lock lock;
  give_back(find(memory));
  return cudaSuccess;
}

}  // namespace

std::shared_ptr<Allocation> allocation_of(const void* address) {
  const Lock lock;
  return find(address);
}

std::shared_ptr<Allocation> allocation_of(const void* address, size_t bytes) {
  const Lock lock;
  std::shared_ptr<Allocation> a = find(address);
  if (!a || a->freed || static_cast<const char*>(address) + bytes > a->data + a->bytes) return nullptr;
  return a;
}

void add_reached(Allocations& reached, const void* argument, size_t bytes) {
  const Lock lock;
  for (size_t at = 0; at + sizeof(void*) <= bytes; at += sizeof(void*)) {
    const void* address = nullptr;
    std::memcpy(&address, static_cast<const char*>(argument) + at, sizeof address);
    if (std::shared_ptr<Allocation> a = find(address); a && std::find(reached.begin(), reached.end(), a) == reached.end())
      reached.push_back(std::move(a));
  }
}

void open(const Allocations& reached) {
  for (const auto& a : reached)
    if (a->on_device && !a->freed && a->users++ == 0) protect(*a, PROT_READ | PROT_WRITE);
}
void close(const Allocations& reached) {
  for (const auto& a : reached)
    if (a->on_device && !a->freed && --a->users == 0) protect(*a, PROT_NONE);
}

void poison(void* memory, size_t bytes) {
  auto* to = static_cast<char*>(memory);
  for (size_t at = 0; at < bytes; at += sizeof nothing_written)
    std::memcpy(to + at, &nothing_written, std::min(sizeof nothing_written, bytes - at));
}

cudaError_t run_on_device(const std::function<void()>& work) {
  sigjmp_buf here;
  const int fault = sigsetjmp(here, 1);
  if (fault != 0) {
    begun = nullptr;
    return fault == SIGILL ? cudaErrorMisalignedAddress : cudaErrorIllegalAddress;
  }
  begun = &here;
  cudaError_t status = cudaSuccess;
  try {
    work();
  } catch (const std::exception& e) {
    say(e.what());
    status = cudaErrorLaunchFailure;
  }
  begun = nullptr;
  return status;
}

}  // namespace simulated_cuda

using namespace simulated_cuda;

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (const cudaError_t refused = refuse_in_any_capture("cudaMalloc"); refused != cudaSuccess) return error(refused);
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  return allocate(memory, bytes, true);
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  if (const cudaError_t refused = refuse_in_any_capture("cudaMallocHost"); refused != cudaSuccess) return error(refused);
  if (const cudaError_t status = broken(); status != cudaSuccess) return status;
  return allocate(memory, bytes, false);
}
cudaError_t cudaFree(void* memory) { return release(memory, true, "cudaFree"); }
cudaError_t cudaFreeHost(void* memory) { return release(memory, false, "cudaFreeHost"); }
