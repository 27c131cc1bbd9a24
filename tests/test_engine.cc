// The engine's core: errors, devices, memory, parameters, random numbers, files.
#include <doctest/doctest.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>

#include "engine/device.h"
#include "engine/files/checksum.h"
#include "engine/files/durable_file.h"
#include "engine/format.h"
#include "engine/gemm.h"
#include "engine/graph_capture.h"
#include "engine/launch.h"
#include "engine/math.h"
#include "engine/memory.h"
#include "engine/parameters.h"
#include "engine/random.h"
#include "engine/registry.h"
#include "engine/utf8.h"
#include "engine/files/safetensors.h"
#include "engine/files/sha256.h"
#include "tests/message_of.h"

using namespace pipecast;
using pipecast::testing::message_of;
using doctest::Contains;

namespace {

// A folder of this test's own, removed at the end.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("pipecast_test_engine_" + std::to_string(getpid()));
  Folder() { std::filesystem::create_directory(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return path / name; }
};

std::vector<uint8_t> bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::vector<uint8_t>(std::istreambuf_iterator<char>(file), {});
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Errors and devices

TEST_CASE("an unknown name is answered with the nearest known one, or with none") {
  const std::vector<std::string> known = {"resnet20", "resnet32", "vgg16"};
  CHECK(unknown_name("model", "resnet2", known) == "unknown model 'resnet2'; did you mean 'resnet20'? Known: resnet20, resnet32, vgg16");
  CHECK(unknown_name("model", "vg16", known) == "unknown model 'vg16'; did you mean 'vgg16'? Known: resnet20, resnet32, vgg16");
  CHECK(unknown_name("model", "resnte32", known) == "unknown model 'resnte32'; did you mean 'resnet32'? Known: resnet20, resnet32, vgg16");
  CHECK(unknown_name("model", "transformer", known) == "unknown model 'transformer'; Known: resnet20, resnet32, vgg16");
  CHECK(unknown_name("model", "", {"a"}) == "unknown model ''; Known: a");
  CHECK(unknown_name("model", std::string(1 << 22, 'r') + "\n", {"resnet20"}) ==
        "unknown model '" + std::string(80, 'r') + "...'; Known: resnet20");
  CHECK(unknown_name("model", "a\x1b[2J\xff", {"b"}) == "unknown model 'a?[2J?'; Known: b");  // nothing that a terminal would obey
  CHECK(unknown_name("device", "gpu", {"cpu", "cuda"}) == "unknown device 'gpu'; did you mean 'cpu'? Known: cpu, cuda");
}

TEST_CASE("a failed library call names its place") {
  const auto text = message_of<Error>([] { fail("oneDNN", "out of memory", std::source_location::current()); });
  CHECK(text == Contains("test_engine.cc:"));
  CHECK(text == Contains("oneDNN: out of memory"));
}

TEST_CASE("devices") {
  const Device host = DeviceOwner("cpu").get();
  CHECK(!host.gpu);
  CHECK(host.stream == nullptr);
  CHECK(message_of<UsageError>([] { DeviceOwner owner("cdua"); }) == Contains("unknown device 'cdua'; did you mean 'cuda'?"));
  if (!gpu_present()) CHECK(message_of<UsageError>([] { DeviceOwner owner("cuda"); }) == Contains("device 'cuda': "));
  CHECK(!host.tf32);
  CHECK(message_of<UsageError>([] { DeviceOwner owner("cpu", "tf23"); }) == Contains("unknown math 'tf23'; did you mean 'tf32'?"));
  CHECK(message_of<UsageError>([] { DeviceOwner owner("cpu", "tf32"); }) == Contains("the host computes in fp32 only"));

  const int before = threads();
  set_threads(2);
  CHECK(threads() == 2);
  set_threads(before);
  CHECK(message_of<UsageError>([] { set_threads(0); }) == Contains("it must be at least 1"));
#ifdef PIPECAST_ONEDNN
  CHECK(library_versions().find("oneDNN ") != std::string::npos);
#endif
}

TEST_CASE("what the environment says of teams takes no thread away") {
  const int before = threads(), levels = omp_get_max_active_levels();
  omp_set_dynamic(1);
  omp_set_max_active_levels(0);
  set_threads(3);
  int team = 0;
#pragma omp parallel
#pragma omp single
  team = omp_get_num_threads();
  CHECK(team == 3);
  CHECK(omp_get_dynamic() == 0);
  omp_set_max_active_levels(levels);
  set_threads(before);
}

TEST_CASE("a team that is too small does the slices of one that is not") {
  auto slices = [] {
    std::mutex mutex;
    std::set<std::pair<int64_t, int64_t>> seen;
    parallel(1000, 1, [&](int64_t begin, int64_t end) {
      std::lock_guard lock(mutex);
      seen.insert({begin, end});
    });
    return seen;
  };
  const int before = threads(), levels = omp_get_max_active_levels();
  set_threads(3);
  const std::set<std::pair<int64_t, int64_t>> wanted = {{0, 333}, {333, 666}, {666, 1000}};
  CHECK(slices() == wanted);
  omp_set_max_active_levels(0);  // all teams have one thread
  CHECK(slices() == wanted);
  omp_set_max_active_levels(levels);
  set_threads(before);
}

[[gnu::noinline]] void store_four(int64_t* to) {
  const int64_t four[] = {5, 5, 0, 0};
  std::memcpy(to, four, sizeof four);
}

TEST_CASE("the compiler stores constants as they are written") {  // not so g++ 12 for AVX-512 without the flags of meson.build
  int64_t four[4] = {};
  store_four(four);
  CHECK(std::vector<int64_t>(four, four + 4) == std::vector<int64_t>{5, 5, 0, 0});
}

TEST_CASE("far more threads than cores are refused") {
  const int most = std::max(64, 4 * omp_get_num_procs());
  CHECK(threads_asked_for(most) == most);
  CHECK(message_of<UsageError>([&] { threads_asked_for(most + 1); }) == Contains("threads are too many for the"));
}

TEST_CASE("UTF-8 is told from other bytes") {
  using namespace std::string_literals;
  for (const std::string& text : {""s, "a"s, "\0"s, "\x7F"s, "\xC2\x80"s, "caf\xC3\xA9"s, "\xE0\xA0\x80"s, "\xED\x9F\xBF"s, "\xEF\xBF\xBF"s,
                                  "\xF0\x90\x80\x80"s, "\xF4\x8F\xBF\xBF"s})
    CHECK_MESSAGE(is_utf8(text), text);
  for (const std::string& text : {"\x80"s, "caf\xE9"s, "\xC3"s, "\xC3("s, "\xC0\x80"s, "\xC1\xBF"s, "\xE0\x9F\xBF"s, "\xED\xA0\x80"s, "\xE2\x82"s,
                                  "\xF0\x8F\xBF\xBF"s, "\xF4\x90\x80\x80"s, "\xF8\x88\x80\x80\x80"s, "\xFF"s})
    CHECK_FALSE(is_utf8(text));
  CHECK(shown("caf\xC3\xA9 \xE2\x9D\x84") == "caf\xC3\xA9 \xE2\x9D\x84");
  CHECK(printable(std::string(99, 'a') + "\xE9\xC3\xA9") == std::string(99, 'a') + "?\xC3\xA9");
  CHECK(shown("caf\xE9\x1B[31m\x7F\xC2\x9B\xC2\xA0") == "caf??[31m??\xC2\xA0");
  CHECK(shown(std::string(79, 'a') + "\xC3\xA9") == std::string(79, 'a') + "\xC3\xA9");
  CHECK(shown(std::string(80, 'a') + "\xC3\xA9") == std::string(80, 'a') + "...");
}

TEST_CASE("bytes go to a device and back") {
  for (const char* name : {"cpu", "cuda"}) {
    if (std::string(name) == "cuda" && !gpu_present()) continue;
    CAPTURE(name);
    const DeviceOwner owner(name);
    const Device d = owner.get();
    const Memory memory(d, 5);
    const float values[5] = {1, 2, 3, 4, 5};
    float back[5] = {};
    copy(d, memory.data(), values, sizeof values);
    fill_zero(d, memory.data() + 1, 2 * sizeof(float));
    copy(d, back, memory.data(), sizeof back);
    copy(d, nullptr, nullptr, 0);
    fill_zero(d, nullptr, 0);
    synchronize(d);
    CHECK(std::vector<float>(back, back + 5) == std::vector<float>{1, 0, 0, 4, 5});
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory and parameters

// Device one makes a value, device two copies it after an event, the host reads it after another.
TEST_CASE("devices and the host wait for events") {
  for (const char* name : {"cpu", "cuda"}) {
    if (std::string(name) == "cuda" && !gpu_present()) continue;
    CAPTURE(name);
    const DeviceOwner one(name), two(name);
    constexpr int64_t n = 1 << 22;
    const Memory made(one.get(), n), copied(two.get(), n);
    const HostMemory from(one.get(), n), back(two.get(), n);
    CHECK(reinterpret_cast<uintptr_t>(from.data()) % 64 == 0);
    Event full(one.get()), done;
    done = Event(two.get());
    done.wait(), done.hold_back(one.get());  // not set: nothing to wait for
    for (float value : {1.f, 2.f}) {
      std::fill_n(from.data(), n, value);
      copy(one.get(), made.data(), from.data(), n * sizeof(float));
      full.set(one.get());
      full.hold_back(two.get());
      copy(two.get(), copied.data(), made.data(), n * sizeof(float));
      copy(two.get(), back.data(), copied.data(), n * sizeof(float));
      done.set(two.get());
      done.wait();
      CHECK(std::count(back.data(), back.data() + n, value) == n);
    }
  }
  CHECK(HostMemory(Device{}, 0).data() == nullptr);
  CHECK_THROWS_AS(HostMemory(Device{}, -1), Error);
}

namespace {

// Writes down what happens instead of work.
struct Diary : Recorder {
  explicit Diary(std::string& text) : text(text) {}
  void begin() override { text += "begin "; }
  size_t end() override { return text += "end ", records++; }
  void abandon() noexcept override { text += "abandon "; }
  void replay(size_t number) override { text += "replay" + std::to_string(number) + " "; }
  std::string& text;
  size_t records = 0;
};

}  // namespace

TEST_CASE("work is done the first time, recorded the second and replayed from then on, each key by itself") {
  std::string text;
  Replays<int> replays(std::make_unique<Diary>(text));
  const auto happens = [&](int key, bool fails = false) {
    text.clear();
    replays.run(key, [&] {
      text += "work ";
      if (fails) throw Error("failed");
    });
    return text;
  };
  CHECK(happens(7) == "work ");
  CHECK(happens(7) == "begin work end replay0 ");
  CHECK(happens(3) == "work ");
  CHECK(happens(7) == "replay0 ");
  CHECK_THROWS_AS(happens(3, true), Error);
  CHECK(text == "begin work abandon ");
  CHECK(happens(3) == "begin work end replay1 ");
  CHECK(happens(3) == "replay1 ");
  CHECK(happens(7) == "replay0 ");

  CHECK(make_recorder(Device{}) == nullptr);
  Replays<int> none(make_recorder(Device{}));
  int done = 0;
  for (int k = 0; k < 3; ++k) none.run(7, [&] { ++done; });
  CHECK(done == 3);
}

// k products of two numbers, each rounded to 10 bits of mantissa: up to 2^-10 of their magnitude, and hardly ever exact.
TEST_CASE("tf32 products on a GPU are near those in fp32, and others") {
  if (!gpu_present()) return;
  constexpr int64_t n = 64;
  std::vector<std::vector<float>> products;
  for (const char* math : {"fp32", "tf32"}) {
    const DeviceOwner owner("cuda", math);
    const Device d = owner.get();
    CHECK(d.tf32 == (std::string(math) == "tf32"));
    const Random random{3, purpose("tf32"), 0};
    std::vector<float> values(n * n), c(n * n);
    for (size_t i = 0; i < values.size(); ++i) values[i] = random.uniform(i) + 0.5f;
    const Memory a(d, n * n), product(d, n * n);
    copy(d, a.data(), values.data(), values.size() * sizeof(float));
    gemm(d, false, true, n, n, n, a.data(), a.data(), 0, product.data());
    copy(d, c.data(), product.data(), c.size() * sizeof(float));
    synchronize(d);
    products.push_back(c);
  }
  CHECK(products[0] != products[1]);
  float worst = 0;
  for (size_t i = 0; i < products[0].size(); ++i) worst = std::max(worst, std::abs(products[1][i] / products[0][i] - 1));
  CHECK(worst < 0x1p-10f);
}

TEST_CASE("memory is aligned, zero and counted") {
  const int64_t before = memory_in_use();
  {
    Memory first(Device{}, 100), none(Device{}, 0);
    CHECK(memory_in_use() == before + 400);
    CHECK(reinterpret_cast<uintptr_t>(first.data()) % 64 == 0);
    CHECK(std::count(first.data(), first.data() + 100, 0.f) == 100);
    CHECK(none.data() == nullptr);

    Memory second = std::move(first);
    CHECK(first.data() == nullptr);
    CHECK(second.size() == 100);
    CHECK(memory_in_use() == before + 400);
    second = Memory(Device{}, 50);
    CHECK(memory_in_use() == before + 200);
    CHECK(memory_peak() >= before + 600);  // both blocks were held while one was assigned
  }
  CHECK(memory_in_use() == before);
  CHECK(message_of<Error>([] { Memory(Device{}, -1); }) == Contains("no such size"));
#ifndef __SANITIZE_ADDRESS__  // which ends the process over such a size
  CHECK(message_of<Error>([] { Memory(Device{}, INT64_MAX / 8); }) == Contains("no such block left"));
#endif
  CHECK(memory_in_use() == before);
}

TEST_CASE("a layout never lets two living tensors overlap, and reuses what is free") {
  const Random random{1, purpose("lay_out"), 0};
  uint32_t element = 0;
  double reused = 0, plain = 0;
  for (int round = 0; round < 400; ++round) {
    std::vector<Lifetime> tensors(random.below(element++, 40));
    int64_t together = 0;
    for (Lifetime& tensor : tensors) {
      tensor.floats = random.below(element++, 4) == 0 ? 0 : random.below(element++, 1000);
      tensor.first = int(random.below(element++, 20));
      tensor.last = tensor.first + int(random.below(element++, 6));
      together += aligned(tensor.floats);
    }
    const Placement layout = place(tensors);
    REQUIRE(layout.offsets.size() == tensors.size());
    int wrong = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Lifetime& a = tensors[i];
      wrong += layout.offsets[i] % 16 != 0 || layout.offsets[i] < 0 || layout.offsets[i] + a.floats > layout.total;
      for (size_t j = 0; j < i; ++j) {
        const Lifetime& b = tensors[j];
        const bool alive = a.first <= b.last && b.first <= a.last;
        const bool overlap = layout.offsets[i] < layout.offsets[j] + b.floats && layout.offsets[j] < layout.offsets[i] + a.floats;
        wrong += alive && overlap && a.floats > 0 && b.floats > 0;
      }
    }
    CHECK(wrong == 0);
    CHECK(layout.total <= together);
    int64_t needed = 0;  // the most that is alive at one time: no layout is smaller
    for (int time = 0; time < 30; ++time) {
      int64_t alive = 0;
      for (const Lifetime& tensor : tensors)
        if (tensor.first <= time && time <= tensor.last) alive += aligned(tensor.floats);
      needed = std::max(needed, alive);
    }
    CHECK(layout.total >= needed);
    reused += double(layout.total), plain += double(together);
  }
  CHECK(reused < 0.5 * plain);

  // One after another: all share the place of the largest.
  const Placement chain = place({{100, 0, 0}, {30, 1, 1}, {0, 0, 9}, {64, 2, 5}});
  CHECK(chain.total == 112);
  CHECK(chain.offsets == std::vector<int64_t>{0, 0, 0, 0});
  CHECK(place({{1, 0, 1}, {1, 1, 2}}).total == 32);
  CHECK(place({}).total == 0);
}

TEST_CASE("segments are aligned and found by name") {
  Segments segments;
  segments.add({"conv.weight", {3, 1, 1, 5}, {Initial::normal, 1}});
  segments.add({"bn.bias", {16}, {}});
  segments.add({"bn.counter", {}, {}, true});
  CHECK(segments.offsets == std::vector<int64_t>{0, 16, 32});
  CHECK(segments.total == 48);
  CHECK(segments.find("bn.bias") == 1);
  CHECK(segments.find("bias") == -1);
}

TEST_CASE("initial values are a function of seed and name alone") {
  Segments segments;
  segments.add({"a", {50'001}, {Initial::normal, 0.5f}});
  segments.add({"b", {50'001}, {Initial::uniform, 0.25f}});
  segments.add({"c", {3}, {Initial::constant, 2}});
  std::vector<float> values(segments.total, NAN);
  initialize(segments, 9, values.data());

  double sum = 0, square = 0, low = 1, high = -1;
  for (int64_t i = 0; i < 50'001; ++i) sum += values[i], square += double(values[i]) * values[i];
  CHECK(sum / 50'001 == doctest::Approx(0).epsilon(0.01));
  CHECK(std::sqrt(square / 50'001) == doctest::Approx(0.5).epsilon(0.01));
  const float* uniform = values.data() + segments.offsets[1];
  for (int64_t i = 0; i < 50'001; ++i) low = std::min(low, double(uniform[i])), high = std::max(high, double(uniform[i]));
  CHECK(low >= -0.25);
  CHECK(low < -0.249);
  CHECK(high < 0.25);
  CHECK(high > 0.249);
  for (int64_t i = 0; i < 16; ++i) CHECK(values[segments.offsets[2] + i] == (i < 3 ? 2 : 0));
  for (int64_t i = 50'001; i < segments.offsets[1]; ++i) CHECK(values[i] == 0);

  Segments alone;  // the same parameter in another company, and under another seed
  alone.add({"b", {50'001}, {Initial::uniform, 0.25f}});
  std::vector<float> same(alone.total), different(alone.total);
  initialize(alone, 9, same.data());
  initialize(alone, 10, different.data());
  CHECK(std::equal(same.begin(), same.begin() + 50'001, uniform));
  CHECK(!std::equal(different.begin(), different.begin() + 50'001, uniform));
}

TEST_CASE("a store has one copy or two, also where there are no weights") {
  Segments segments;
  segments.add({"w", {20}, {}});
  const int64_t before = memory_in_use();
  const ParameterStore two(Device{}, segments, true);
  CHECK(memory_in_use() == before + 3 * 32 * 4);
  CHECK(two.copies() == 2);
  CHECK(two.latest() != two.other());
  const ParameterStore one(Device{}, segments, false);
  CHECK(one.copies() == 1);
  CHECK(one.other() == nullptr);
  CHECK(one.segments().total == 32);
  CHECK(ParameterStore(Device{}, {}, true).copies() == 2);
}

// ---------------------------------------------------------------------------------------------------------------------
// Random numbers and mathematics

TEST_CASE("Philox agrees with its authors' known answers") {
  struct Answer {
    uint32_t counter[4], key[2], words[4];
  };
  const Answer answers[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (Answer answer : answers) {
    Philox{{answer.key[0], answer.key[1]}}(answer.counter);
    CHECK(std::equal(answer.words, answer.words + 4, answer.counter));
  }
}

TEST_CASE("every (seed, purpose, step, element) has a number of its own") {
  const uint64_t far_step = (uint64_t(1) << 48) - 1, far_element = (uint64_t(1) << 48) - 1;
  std::set<uint64_t> seen;  // two words of 32 bits: about 200 of them do not meet by chance
  size_t count = 0;
  for (uint64_t seed : {uint64_t(0), uint64_t(1), uint64_t(1) << 32})
    for (uint32_t use : {purpose("a"), purpose("b")})
      for (uint64_t step : {uint64_t(0), uint64_t(1), uint64_t(1) << 32, uint64_t(1) << 47, far_step})
        for (uint64_t element :
             {uint64_t(0), uint64_t(1), uint64_t(1) << 16, uint64_t(1) << 32, uint64_t(1) << 34, uint64_t(1) << 47, far_element}) {
          const Random random{seed, use, step};
          seen.insert(uint64_t(random.bits(element)) << 32 | std::bit_cast<uint32_t>(random.normal(element)));
          ++count;
        }
  CHECK(seen.size() == count);
  CHECK(purpose("") == 0x811c9dc5);  // FNV-1a's own known answers
  CHECK(purpose("foobar") == 0xbf9cf968);
}

TEST_CASE("moments and ranges of random numbers") {
  const Random random{42, purpose("moments"), 3};
  const int64_t n = 1 << 20;
  double sum = 0, square = 0, fourth = 0, uniform_sum = 0, uniform_square = 0, neighbours = 0;
  float low = 1, high = 0, widest = 0;
  std::vector<int64_t> bins(10, 0);
  int64_t out_of_range = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float u = random.uniform(uint64_t(i));
    low = std::min(low, u), high = std::max(high, u);
    uniform_sum += u, uniform_square += double(u) * u, neighbours += (u - 0.5) * (random.uniform(uint64_t(i) + 1) - 0.5);
    const double z = random.normal(uint64_t(i));
    sum += z, square += z * z, fourth += z * z * z * z, widest = std::max(widest, float(std::abs(z)));
    const uint32_t digit = random.below(uint64_t(i), 10);
    if (digit < 10) ++bins[digit];
    out_of_range += digit >= 10;
  }
  // Bounds are five standard deviations of the estimate.
  const double root = std::sqrt(double(n));
  CHECK(out_of_range == 0);
  CHECK(low >= 0);
  CHECK(high < 1);
  CHECK(std::abs(uniform_sum / n - 0.5) < 5 * std::sqrt(1. / 12) / root);
  CHECK(std::abs(uniform_square / n - 1. / 3) < 5 * std::sqrt(4. / 45) / root);
  CHECK(std::abs(neighbours / n) < 5. / 12 / root);
  CHECK(std::abs(sum / n) < 5 / root);
  CHECK(std::abs(square / n - 1) < 5 * std::sqrt(2.) / root);
  CHECK(std::abs(fourth / n - 3) < 5 * std::sqrt(96.) / root);
  CHECK(widest > 4);
  CHECK(widest < 6);
  for (int64_t bin : bins) CHECK(std::abs(double(bin) - n / 10.) < 5 * std::sqrt(0.09) * root);
  for (uint64_t i = 0; i < 100; ++i) CHECK(random.below(i, 1) == 0);
}

TEST_CASE("exp_ is exact to a few units in the last place, and clamps") {
  double worst = 0;
  for (float x = -87; x <= 88; x += 0.001f) worst = std::max(worst, std::abs(exp_(x) / std::exp(double(x)) - 1));
  CHECK(worst < 1.3e-7);
  CHECK(exp_(0) == 1);
  CHECK(exp_(-1000) == exp_(-87));
  CHECK(exp_(1000) == exp_(88));
  CHECK(std::isnan(exp_(NAN)));  // a run that diverges must show it
}

// ---------------------------------------------------------------------------------------------------------------------
// Digest and files

TEST_CASE("SHA-256 agrees with FIPS 180-4") {
  const auto digest = [](const std::string& text) {
    Sha256 sha;
    sha.add(text.data(), text.size());
    return sha.hex();
  };
  CHECK(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(digest(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  for (size_t piece : {1, 3, 55, 63, 64, 65, 200}) {  // the same text in pieces
    const std::string text(1000, 'x');
    Sha256 sha;
    for (size_t i = 0; i < text.size(); i += piece) sha.add(text.data() + i, std::min(piece, text.size() - i));
    CHECK(sha.hex() == digest(text));
  }
}

TEST_CASE("checksums: known answers, and every flipped bit is seen") {
  CHECK(crc32("", 0) == 0);
  CHECK(crc32("123456789", 9) == 0xcbf43926);
  CHECK(adler32("", 0) == 1);
  CHECK(adler32("Wikipedia", 9) == 0x11e60398);
  CHECK(adler32(std::string(100'000, '\xff').data(), 100'000) == 0x149a302c);  // its sums do not fit 32 bits
  for (const size_t size : {1, 7, 8, 9, 16, 27}) {
    std::string text(size, 'x');
    std::set<uint32_t> crcs{crc32(text.data(), size)}, adlers{adler32(text.data(), size)};
    std::set<uint64_t> hashes{hash64(text.data(), size)};
    for (size_t bit = 0; bit < 8 * size; ++bit) {
      text[bit / 8] ^= char(1 << bit % 8);
      CHECK(crcs.insert(crc32(text.data(), size)).second);
      adlers.insert(adler32(text.data(), size));
      CHECK(hashes.insert(hash64(text.data(), size)).second);
      text[bit / 8] ^= char(1 << bit % 8);
    }
    CHECK(adlers.size() > size);
  }
  // The same bit of two words, the highest too: nothing cancels.
  std::string text(32, 'x');
  const uint64_t before = hash64(text.data(), 32);
  text[7] ^= '\x80', text[23] ^= '\x80';
  CHECK(hash64(text.data(), 32) != before);
}

namespace {

SafeTensors example() {
  const float weight[6] = {-0.5f, -0.25f, 0, 0.25f, 0.5f, 0.75f};
  const int64_t counter = (int64_t(1) << 40) + 7;
  SafeTensors file;
  file.tensors["weight"] = FileTensor::f32({2, 3}, weight);
  file.tensors["counter"] = FileTensor::i64({}, &counter);
  file.tensors["flags"] = {"BOOL", {3}, {1, 0, 1}};
  file.tensors["half"] = {"F16", {2}, {0x00, 0x3e, 0x00, 0xc0}};
  file.tensors["empty"] = FileTensor::f32({0, 4}, nullptr);
  file.tensors["größe \"x\""] = {"U8", {2}, {255, 0}};
  file.metadata = {{"format", "pt"}, {"made by", "make_engine.py"}};
  return file;
}

void check_equal(const SafeTensors& a, const SafeTensors& b) {
  CHECK(a.metadata == b.metadata);
  REQUIRE(a.tensors.size() == b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    CAPTURE(name);
    REQUIRE(b.tensors.count(name) == 1);
    const FileTensor& other = b.tensors.at(name);
    CHECK(tensor.type == other.type);
    CHECK(tensor.shape == other.shape);
    CHECK(tensor.bytes == other.bytes);
  }
}

// What the reader says about a file with this header and this many bytes of data.
doctest::String refusal(const std::string& header, size_t data_bytes = 0) {
  const uint64_t size = header.size();
  std::vector<uint8_t> file(8 + size + data_bytes, 0);
  std::memcpy(file.data(), &size, 8);
  std::copy(header.begin(), header.end(), file.begin() + 8);
  return message_of<UsageError>([&] { parse_safetensors(file.data(), file.size(), "some.file"); });
}

std::string one_tensor(const std::string& type, const std::string& shape, const std::string& offsets) {
  return R"({"w":{"dtype":)" + type + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

}  // namespace

TEST_CASE("safetensors: what is written is read back") {
  const Folder folder;
  const std::string path = folder / "a.safetensors";
  write_safetensors(path, example());
  check_equal(read_safetensors(path), example());
  CHECK(!std::filesystem::exists(path + ".tmp"));
  uint64_t header = 0;
  std::memcpy(&header, bytes_of(path).data(), 8);
  CHECK(header % 8 == 0);
  CHECK(read_safetensors(path).tensors.at("weight").floats() == std::vector<float>{-0.5f, -0.25f, 0, 0.25f, 0.5f, 0.75f});
  CHECK(message_of<UsageError>([&] { example().tensors.at("counter").floats(); }) == Contains("I64"));

  write_safetensors(path, SafeTensors{});  // over an old file; nothing in it is legal
  check_equal(read_safetensors(path), SafeTensors{});
}

TEST_CASE("safetensors: the format's own library is understood") {
  const std::string golden = GOLDEN_DIR "/engine.safetensors";
  check_equal(read_safetensors(golden), example());
}

TEST_CASE("safetensors: a failed write leaves nothing behind") {
  const Folder folder;
  CHECK(message_of<Error>([&] { write_safetensors(folder / "no/such/folder", example()); }) == Contains("no/such/folder"));
  std::filesystem::create_directories(folder / "taken/x");  // a folder in the way of the rename
  CHECK(message_of<Error>([&] { write_safetensors(folder / "taken", example()); }) == Contains("taken"));
  CHECK(!std::filesystem::exists(folder / "taken.tmp"));

  SafeTensors wrong;
  wrong.tensors["w"] = {"F32", {3}, {1, 2, 3}};
  CHECK(message_of<Error>([&] { write_safetensors(folder / "w", wrong); }) == Contains("tensor 'w'"));
  wrong.tensors["w"] = {"F31", {0}, {}};
  CHECK(message_of<Error>([&] { write_safetensors(folder / "w", wrong); }) == Contains("tensor 'w'"));
  wrong.tensors.clear();
  wrong.tensors["\xff"] = {"U8", {0}, {}};
  CHECK(message_of<Error>([&] { write_safetensors(folder / "w", wrong); }) == Contains("UTF-8"));
  wrong.tensors.clear();
  wrong.tensors["__metadata__"] = {"U8", {0}, {}};
  CHECK(message_of<Error>([&] { write_safetensors(folder / "w", wrong); }) == Contains("reserved"));
  CHECK(!std::filesystem::exists(folder / "w"));
}

TEST_CASE("read_file: whole files within a limit; what cannot be read is named") {
  const Folder folder;
  std::string content;
  for (int i = 0; i < 200000; ++i) content += char(i * 7);
  std::ofstream(folder / "f", std::ios::binary) << content;
  CHECK(text_of(read_file(folder / "f")) == content);
  CHECK(text_of(read_file(folder / "f", 200000)) == content);
  CHECK(message_of<UsageError>([&] { read_file(folder / "f", 199999); }) == Contains("f': it has 200000 bytes, more than the 199999"));
  CHECK(message_of<UsageError>([] { read_file("/dev/zero"); }) == Contains("cannot read '/dev/zero'"));
  CHECK(message_of<UsageError>([&] { read_file(folder / "none"); }) == Contains("none': No such file"));
  CHECK(message_of<UsageError>([&] { read_file(folder.path); }) == Contains("directory"));
  std::filesystem::resize_file(folder / "f", (uint64_t(1) << 36) + 1);  // a hole, which takes no place on the disk
  CHECK(message_of<UsageError>([&] { read_safetensors(folder / "f"); }) == Contains("has 68719476737 bytes, more than the"));
}

TEST_CASE("numbers for people") {
  CHECK(decimal(1.25, 1) == "1.2");
  CHECK(decimal(-2, 3) == "-2.000");
  CHECK(decimal(std::copysign(NAN, -1.0), 4) == "nan");
}

TEST_CASE("safetensors: a file that cannot be read is named") {
  const Folder folder;
  CHECK(message_of<UsageError>([&] { read_safetensors(folder / "none"); }) == Contains("none': No such file"));
  CHECK(message_of<UsageError>([&] { read_safetensors(folder.path); }) == Contains("directory"));
}

TEST_CASE("safetensors: every defect has its sentence") {
  const std::string f32 = R"("F32")";
  CHECK(refusal(one_tensor(f32, "[2]", "[0,8]"), 8) == "nothing was thrown");
  CHECK(refusal(one_tensor(f32, "[2]", "[0,8]") + "  \n", 8) == "nothing was thrown");
  CHECK(refusal(one_tensor(f32, "[]", "[0,4]"), 4) == "nothing was thrown");
  CHECK(refusal("{}") == "nothing was thrown");
  CHECK(refusal(one_tensor(f32, "[2]", "[0,8]"), 8 - 1) == Contains("'some.file'"));
  CHECK(refusal(one_tensor(f32, "[2]", "[0,8]"), 7) == Contains("truncated?"));
  CHECK(refusal(one_tensor(f32, "[2]", "[0,8]"), 9) == Contains("1 bytes follow the last tensor"));
  CHECK(refusal("{}", 1) == Contains("1 bytes follow the last tensor"));
  CHECK(refusal(one_tensor(f32, "[2]", "[4,12]"), 12) == Contains("a hole was left"));
  CHECK(refusal(one_tensor(f32, "[2]", "[8,0]"), 8) == Contains("ends before it begins"));
  CHECK(refusal(one_tensor(f32, "[2]", "[0,4]"), 4) == Contains("4 bytes of data where its shape needs 8"));
  CHECK(refusal(one_tensor(f32, "[2]", "[0,8,8]"), 8) == Contains("not two numbers"));
  CHECK(refusal(one_tensor(f32, "[2]", "8"), 8) == Contains("not two numbers"));
  CHECK(refusal(one_tensor(f32, "[2]", "[0,-8]"), 8) == Contains("not a size: -8"));
  CHECK(refusal(one_tensor(f32, "[2.0]", "[0,8]"), 8) == Contains("not a size: 2.0"));
  CHECK(refusal(one_tensor(f32, "[-2]", "[0,8]"), 8) == Contains("not a size: -2"));
  CHECK(refusal(one_tensor(f32, "[18446744073709551615]", "[0,8]"), 8) == Contains("not a size"));
  CHECK(refusal(one_tensor(f32, "[4611686018427387904]", "[0,0]")) == Contains("too large to exist"));
  CHECK(refusal(one_tensor(f32, "[4294967296,4294967296]", "[0,0]")) == Contains("too large to exist"));
  CHECK(refusal(one_tensor(f32, "[1152921504606846976]", "[0,4611686018427387904]")) == Contains("truncated?"));
  CHECK(refusal(one_tensor(f32, "2", "[0,8]"), 8) == Contains("not an array"));
  CHECK(refusal(one_tensor(R"("F8")", "[2]", "[0,8]"), 8) == Contains("unknown type \"F8\""));
  CHECK(refusal(one_tensor("32", "[2]", "[0,8]"), 8) == Contains("unknown type 32"));
  CHECK(refusal(R"({"w":{"dtype":"F32","shape":[2]}})") == Contains("has no 'data_offsets'"));
  CHECK(refusal(R"({"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"more":1}})") == Contains("other keys"));
  CHECK(refusal(R"({"w":3})") == Contains("not described by an object"));
  CHECK(refusal(R"({"w":1,"w":2})") == Contains("'w' twice"));
  CHECK(refusal(R"({"__metadata__":{"a":"1","a":"2"}})") == Contains("'a' twice"));
  CHECK(refusal(R"({"__metadata__":{"a":1}})") == Contains("metadata 'a' is not a string"));
  CHECK(refusal(R"({"__metadata__":null})") == "nothing was thrown");  // as the reference reads it
  const auto refusal_of_all = [](const std::string& bytes) {
    return message_of<UsageError>([&] { parse_safetensors(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), "some.file"); });
  };
  CHECK(refusal_of_all(std::string("PK\3\4\0\0\0\0\0\0", 10)) == Contains("'some.file' is no usable safetensors file: it is a zip archive"));
  CHECK(refusal_of_all("version https://git-lfs.github.com/spec/v1\noid") == Contains("it is a pointer of git-lfs"));
  CHECK(refusal(R"({"__metadata__":[]})") == Contains("__metadata__ is not an object"));
  CHECK(refusal("[]") == Contains("not an object"));
  CHECK(refusal("") == Contains("not JSON"));
  CHECK(refusal("{\"\xff\":{}}") == Contains("not JSON"));
  CHECK(refusal(std::string(10'000'000, '[')) == Contains("nests more than 8 levels"));
  CHECK(refusal(R"({"w\"[[[[[[[[[[":3})") == Contains("not described by an object"));  // brackets in a name are no nesting

  const std::string two = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[)";
  CHECK(refusal(two + "4,8]}}", 8) == "nothing was thrown");
  CHECK(refusal(two + "3,7]}}", 8) == Contains("where another tensor lies"));
  CHECK(refusal(two + "0,4]}}", 4) == Contains("where another tensor lies"));
  CHECK(refusal(two + "5,9]}}", 9) == Contains("a hole was left"));

  for (uint64_t claim : {uint64_t(3), uint64_t(100'000'000), uint64_t(100'000'001), ~uint64_t(0)}) {
    uint8_t file[10] = {};
    std::memcpy(file, &claim, 8);
    CHECK(message_of<UsageError>([&] { parse_safetensors(file, sizeof file, "x"); }) == Contains("header claims"));
  }
}

TEST_CASE("safetensors: half and bfloat16 become fp32, and all types of the format can be carried") {
  const auto of_bits = [](const char* type, std::vector<uint16_t> bits) {
    FileTensor tensor{type, {int64_t(bits.size())}, std::vector<uint8_t>(bits.size() * 2)};
    std::memcpy(tensor.bytes.data(), bits.data(), tensor.bytes.size());
    return tensor.floats();
  };
  CHECK(of_bits("F16", {0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x03ff, 0x8000, 0x7c00, 0x3555}) ==
        std::vector<float>{1, -2, 65504, 6.103515625e-05f, 5.9604644775390625e-08f, 6.097555160522461e-05f, -0.f, INFINITY, 0.333251953125f});
  CHECK(std::signbit(of_bits("F16", {0x8000})[0]));
  CHECK(std::isnan(of_bits("F16", {0x7e00})[0]));
  CHECK(of_bits("BF16", {0x3f80, 0xc040, 0xff80}) == std::vector<float>{1, -3, -INFINITY});
  for (const auto& [type, count, bytes] : {std::tuple{"F8_E4M3", 3, 3}, {"F8_E5M2", 3, 3}, {"F8_E8M0", 1, 1}, {"U16", 2, 4}, {"U64", 1, 8},
                                           {"C64", 1, 8}, {"F4", 6, 3}, {"F6_E2M3", 4, 3}}) {
    CAPTURE(type);
    const std::string header = one_tensor("\"" + std::string(type) + "\"", "[" + std::to_string(count) + "]", "[0," + std::to_string(bytes) + "]");
    CHECK(refusal(header, size_t(bytes)) == "nothing was thrown");
    CHECK(refusal(header, size_t(bytes) - 1) != "nothing was thrown");
  }
  CHECK(refusal(one_tensor("\"F4\"", "[3]", "[0,1]"), 1) == Contains("do not fill whole bytes"));
}

TEST_CASE("safetensors: a whole number is read exactly from every type of number, or not at all") {
  const auto of = [](const char* type, auto value) {
    FileTensor tensor{type, {}, std::vector<uint8_t>(sizeof value)};
    std::memcpy(tensor.bytes.data(), &value, sizeof value);
    REQUIRE(tensor.is_number());
    return tensor.whole_number();
  };
  CHECK(of("I64", INT64_MAX) == INT64_MAX);
  CHECK(of("I64", INT64_MIN) == INT64_MIN);
  CHECK(of("I64", (int64_t(1) << 53) + 1) == (int64_t(1) << 53) + 1);
  CHECK(of("I8", int8_t(-3)) == -3);
  CHECK(of("U8", uint8_t(255)) == 255);
  CHECK(of("I16", int16_t(-30000)) == -30000);
  CHECK(of("U16", uint16_t(65535)) == 65535);
  CHECK(of("I32", int32_t(-1)) == -1);
  CHECK(of("U32", uint32_t(-1)) == 4294967295);
  CHECK(of("U64", uint64_t(INT64_MAX)) == INT64_MAX);
  CHECK(!of("U64", uint64_t(INT64_MAX) + 1));
  CHECK(of("F64", 0x1p53) == int64_t(1) << 53);
  CHECK(of("F64", -0x1p62) == -(int64_t(1) << 62));
  for (const double value : {0.5, 0x1p63, -0x1p63, double(INFINITY), double(NAN)}) {
    CHECK(!of("F64", value));
    CHECK(!of("F32", float(value)));
  }
  CHECK(of("F32", -16777216.f) == -16777216);
  CHECK(of("F16", uint16_t(0x7bff)) == 65504);
  CHECK(!of("F16", uint16_t(0x7c00)));
  CHECK(of("BF16", uint16_t(0x4b80)) == 16777216);
  for (const char* type : {"BOOL", "F8_E4M3", "F4", "C64"}) CHECK(!FileTensor{type, {}, {}}.is_number());
}

TEST_CASE("safetensors: cut anywhere, the file is refused") {
  const std::vector<uint8_t> whole = bytes_of(GOLDEN_DIR "/engine.safetensors");
  REQUIRE(whole.size() < 1000);
  REQUIRE(whole.size() > 8);
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::vector<uint8_t> part(whole.begin(), whole.begin() + long(size));  // its own memory, so that a sanitizer sees the end
    CHECK(message_of<UsageError>([&] { parse_safetensors(part.data(), part.size(), "cut"); }) == Contains("'cut' is no usable"));
  }
}

TEST_CASE("safetensors: with any byte of the header changed, the file is read or refused") {
  const std::vector<uint8_t> whole = bytes_of(GOLDEN_DIR "/engine.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  int read = 0, refused = 0;
  for (size_t i = 0; i < 8 + header; ++i)
    for (int value :
         {0,        1,        0x7f,     0x80,     0xff,      int('"'), int('{'),     int('}'),     int('['),     int(']'),
          int(','), int('-'), int('0'), int('9'), int('\\'), int(' '), whole[i] ^ 1, whole[i] ^ 2, whole[i] ^ 4, whole[i] ^ 32}) {
      std::vector<uint8_t> changed = whole;
      changed[i] = uint8_t(value);
      try {
        parse_safetensors(changed.data(), changed.size(), "changed");
        ++read;
      } catch (const UsageError&) {
        ++refused;
      }
    }
  CHECK(read > 100);  // a changed letter of a name, a byte written over itself
  CHECK(refused > 1000);
}

TEST_CASE("a registry finds entries by name and refuses names that are taken or no names") {
  struct Entry {
    std::string name;
    int value;
  };
  Registry<Entry> registry = registry_of<Entry>("thing", {{"first", 1}, {"second", 2}});
  registry.add({"third.x_2-y", 3});
  CHECK(registry.names() == std::vector<std::string>{"first", "second", "third.x_2-y"});
  CHECK(registry.find("third.x_2-y").value == 3);
  CHECK(registry.search("fourth") == nullptr);
  CHECK(message_of<UsageError>([&] { registry.find("secnd"); }) ==
        "unknown thing 'secnd'; did you mean 'second'? Known: first, second, third.x_2-y");
  CHECK(message_of<UsageError>([&] { registry.add({"first", 4}); }) == "there is a thing 'first' already: choose another name");
  for (const std::string name : {"", "two words", "a,b", "a:b", "a=b"})
    CHECK(message_of<UsageError>([&] { registry.add({name, 4}); }) ==
          ("'" + name + "' is no name for a thing: use letters, digits, '-', '_' and '.'").c_str());
  CHECK(registry.entries().size() == 3);
}
