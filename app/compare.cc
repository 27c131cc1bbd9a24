// Methods and seeds side by side: a run of `pipecast train` for each entry and seed, as child processes, and one table of them all.
#include <cctype>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "app/child.h"
#include "app/commands.h"
#include "app/comparison.h"
#include "app/config_file.h"
#include "app/output_file.h"
#include "app/progress.h"
#include "app/training.h"
#include "app/unread_options.h"
#include "pipeline/run/checkpoint_store.h"

namespace pipecast {
namespace {

using Clock = std::chrono::steady_clock;

// "a,b,,c" at commas: "a", "b,c". A separator written twice stands for itself.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> pieces(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != separator) pieces.back() += text[i];
    else if (i + 1 < text.size() && text[i + 1] == separator) pieces.back() += text[i++];
    else pieces.emplace_back();
  }
  return pieces;
}

std::string minutes(double seconds) { return format("%lld:%02lld", (long long)(seconds) / 60, (long long)(seconds) % 60); }

// What a process said at the end, or "nothing".
std::string last_line(const std::string& path) {
  std::ifstream stream(path);
  std::string last = "nothing";
  for (std::string line; std::getline(stream, line);)
    if (!line.empty()) last = line;
  return last;
}

// One entry with one seed.
struct Run {
  Run(const std::string& entry, const TrainingOptions& from, uint64_t seed, const std::string& comparison)
      : entry(entry), training(from), folder(comparison + "/" + folder_name(entry) + "-" + std::to_string(seed)) {
    training.trainer.seed = seed;
    training.declare(options);
  }
  Run(const Run&) = delete;

  // Without the characters that a file system or a shell may take for something else.
  static std::string folder_name(std::string entry) {
    for (char& c : entry)
      if (!std::isalnum(static_cast<unsigned char>(c)) && !std::strchr("._-+=", c)) c = '-';
    return entry;
  }

  std::string title() const { return entry + ", seed " + std::to_string(training.trainer.seed); }
  void read_result() { result = run_result(folder.metrics()); }
  bool over() const { return result.done || result.diverged > 0; }
  std::string outcome() const {
    if (!failure.empty()) return failure;
    return result.done ? format("test accuracy %.2f %%", 100 * result.test_accuracy)
                       : format("diverged at epoch %lld", (long long)(result.diverged));
  }

  const std::string entry;
  TrainingOptions training;
  Options options;  // bound to `training`
  const RunFolder folder;
  bool kept = false;          // it was over before this comparison began
  int64_t goes_on_after = 0;  // the mini-batches of its last checkpoint, if it was interrupted
  double epochs_before = 0;   // that this comparison found done
  pid_t child = 0;
  RunResult result;
  std::string failure;
};

using Runs = std::vector<std::unique_ptr<Run>>;

// What an entry says beside the options that all share: those are `given` then. Every mistake goes to `mistakes`.
void apply(const std::string& entry, Run& run, Mistakes& mistakes) {
  const std::vector<std::string> pieces = split(entry, '+');
  const size_t colon = pieces[0].find(':');
  run.training.trainer.method = pieces[0].substr(0, colon);
  if (colon != std::string::npos) run.options.entry("lookahead").given = true, run.training.look_ahead = pieces[0].substr(colon + 1);
  for (size_t i = 1; i < pieces.size(); ++i) {
    const size_t equals = pieces[i].find('=');
    const std::string name = pieces[i].substr(0, equals);
    if (equals == std::string::npos) {
      mistakes.add("'+" + pieces[i] + "' is not understood; write +option=value, and ++ for a plus sign in a value");
      continue;
    }
    if (name == "method" || name == "seed") {
      mistakes.add("'+" + name + "=' is not for an entry: its method stands first, and --seeds are those of all entries");
      continue;
    }
    std::vector<std::string> known;
    bool found = false;
    for (Options::Entry& option : run.options.entries()) {
      known.push_back(option.name);
      if (option.name != name) continue;
      found = option.given = true;
      mistakes.check([&] { option.set(pieces[i].substr(equals + 1)); });
    }
    if (!found) mistakes.add(unknown_option(name, known, "compare"));
  }
}

// An option that all share is for the entries that read it; the others keep its default. Counts those in `unread`. What an entry says for
// itself, it must read.
void leave_to_others(Run& run, std::map<std::string, size_t>& unread, Mistakes& mistakes) {
  TrainingOptions initial;
  Options defaults;
  initial.declare(defaults);
  for (const UnreadOption& option : unread_options(run.options, run.training)) {
    if (run.options.entry(option.name).given) mistakes.add(option.sentence);
    ++unread[option.name];
    run.options.entry(option.name).set(defaults.entry(option.name).get());
  }
}

// What differs between a run's options and the configuration in its folder; "" for nothing.
std::string difference(const Run& run) {
  std::map<std::string, std::string> there;
  for (const ConfigLine& line : read_config(run.folder.config())) there[line.name] = line.value;
  for (const Options::Entry& option : run.options.entries())
    if (there[option.name] != option.get()) return option.name + " is '" + there[option.name] + "' there and '" + option.get() + "' now";
  return "";
}

// The same sentence about several entries is said once.
class EntryMistakes {
 public:
  template <class F>
  void check(const std::string& entry, F f) {
    try {
      f();
    } catch (const UsageError& error) {
      std::istringstream lines(error.what());
      for (std::string line; std::getline(lines, line);) {
        if (!entries_.count(line)) order_.push_back(line);
        entries_[line].push_back("'" + entry + "'");
      }
    }
  }
  bool none() const { return order_.empty(); }
  void report() const {
    Mistakes mistakes;
    for (const std::string& line : order_) {
      const std::vector<std::string>& entries = entries_.at(line);
      mistakes.add((entries.size() > 1 ? "entries " : "entry ") + list(entries) + ": " + line);
    }
    mistakes.report();
  }

 private:
  std::vector<std::string> order_;
  std::map<std::string, std::vector<std::string>> entries_;
};

class CompareCommand : public Command {
 public:
  CompareCommand()
      : Command("compare", "Train several methods with several seeds and put them in one table",
                "  pipecast compare --data generated --stages 4 --methods vanilla,pipeoptim --seeds 1,2\n"
                "  pipecast compare --data cifar10:DIR --stages 4 --epochs 10 --seeds 1,2,3 --out runs/look-aheads \\\n"
                "      --methods vanilla,pipeoptim,pipeoptim:exact+lr=0.05,gpipe+micro-batches=4") {
    shared_.trainer.stages = 4;
  }

  void declare(Options& o) override {
    o.group("Comparison");
    o.text("methods", methods_, "LIST", "entries METHOD[:LOOKAHEAD][+option=value]...; any option below but the seed may be set");
    o.numbers("seeds", seeds_, "LIST", "each entry is trained with each of these", 0, most_seed);
    o.number("parallel", parallel_, "N", "runs at once; they share the machine, so their speeds are not those of a run alone", 1,
             most_threads);
    o.not_in_config();
    o.text("out", out_, "FOLDER", "folder of the comparison, with a run's folder for each run");
    o.not_in_config();
    o.flag("overwrite", overwrite_, "repeat runs that are over; without it they are kept");
    o.not_in_config();
    shared_.declare(o);
    std::erase_if(o.entries(), [](const Options::Entry& option) { return option.name == "method" || option.name == "seed"; });
  }

  void run(const Options& options) override {
    if (shared_.trainer.threads == 0) shared_.trainer.threads = std::max(1, threads() / parallel_);
    prepare();
    const std::string configuration = options.written_config();
    train();
    report(configuration);
  }

 private:
  // Makes the list of runs and finds everything that is wrong with any of them, before one begins.
  void prepare() {
    Mistakes of_comparison;
    std::error_code ignored;
    if (out_.empty()) of_comparison.add("option --out is empty; name the folder of the comparison");
    else if (std::filesystem::exists(out_, ignored) && !std::filesystem::is_directory(out_, ignored))
      of_comparison.add("'" + out_ + "' is not a folder; choose another --out");
    else if (std::filesystem::exists(RunFolder(out_).config(), ignored))
      of_comparison.add("'" + out_ + "' is the folder of a single run; choose another --out");
    if (seeds_.empty()) of_comparison.add("option --seeds is empty; give at least one seed");
    of_comparison.report();

    EntryMistakes of_entries;
    std::set<std::string> folders;
    std::map<std::string, size_t> unread;
    const std::vector<std::string> entries = split(methods_, ',');
    for (const std::string& entry : entries) {
      Mistakes mistakes;
      auto first = std::make_unique<Run>(entry, shared_, seeds_[0], out_);
      apply(entry, *first, mistakes);
      mistakes.check([&] {
        Training training(first->training);
        leave_to_others(*first, unread, mistakes);
      });
      const size_t begin = runs_.size();
      for (uint64_t seed : seeds_) {
        runs_.push_back(std::make_unique<Run>(entry, first->training, seed, out_));
        const std::string& folder = runs_.back()->folder.path();
        if (!folders.insert(folder).second)
          mistakes.add("folder '" + folder + "' would hold two runs; name every entry and every seed once");
      }
      of_entries.check(entry, [&] { mistakes.report(); });
      if (of_entries.none())
        for (size_t i = begin; i < runs_.size(); ++i) of_entries.check(entry, [&] { look_for_earlier(*runs_[i]); });
    }
    of_entries.report();
    for (const auto& [option, count] : unread)
      if (count == entries.size()) of_comparison.add("option --" + option + " has no effect with any of the entries: leave it out");
    of_comparison.report();
  }

  // Keeps a run that is over, goes on with one that was interrupted, and throws UsageError for one of another configuration.
  void look_for_earlier(Run& run) {
    run.folder.check_free(true);
    check_input_file("weights", run.training.weights, run.folder);
    check_input_file("program", run.training.program, run.folder);
    std::error_code ignored;
    if (overwrite_ || !std::filesystem::exists(run.folder.config(), ignored)) return;
    if (const std::string what = difference(run); !what.empty())
      throw UsageError("'" + run.folder.path() + "' holds a run of another configuration: " + what +
                       "; choose another --out, or give --overwrite");
    run.read_result();
    run.kept = run.over();
    if (run.kept) return;
    if (const std::vector<int64_t> all = CheckpointStore(run.folder.checkpoints()).complete(); !all.empty())
      run.goes_on_after = all.back(), run.epochs_before = run.result.epochs_done;
  }

  void train() {
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[i]->kept) say(i, "kept, " + runs_[i]->outcome());
      else waiting_.push_back(i);
      if (runs_[i]->goes_on_after > 0) say(i, format("goes on after mini-batch %lld", (long long)(runs_[i]->goes_on_after)));
    }
    start_ = Clock::now();
    size_t next = 0;
    std::vector<size_t> running;
    while (next < waiting_.size() || !running.empty()) {
      for (; next < waiting_.size() && int(running.size()) < parallel_; ++next) {
        start(*runs_[waiting_[next]]);
        running.push_back(waiting_[next]);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      std::erase_if(running, [&](size_t i) {
        const std::optional<int> code = exit_code(runs_[i]->child);
        if (code) finish(i, *code);
        return code.has_value();
      });
      if (progress_.due() && !running.empty()) show_progress(running);
    }
    progress_.clear();
  }

  void start(Run& run) {
    if (run.goes_on_after > 0) {
      run.child = start_child({"train", "--resume", run.folder.path()}, run.folder.log());
      return;
    }
    run.folder.create(run_configuration(run.options));
    run.child = start_child({"train", "--config", run.folder.config(), "--out", run.folder.path(), "--overwrite"}, run.folder.log());
  }

  void finish(size_t i, int code) {
    Run& run = *runs_[i];
    run.read_result();
    if (code != 0 && !run.over())
      run.failure =
          "failed with exit code " + std::to_string(code) + "; the end of " + run.folder.log() + ": " + last_line(run.folder.log());
    progress_.clear();
    const std::string left = time_left();
    say(i, run.outcome() + (run.result.done ? " in " + minutes(run.result.seconds) : "") + (left.empty() ? "" : "; " + left));
  }

  void say(size_t i, const std::string& what) const {
    std::cout << "run " << i + 1 << " of " << runs_.size() << ": " << runs_[i]->title() << ": " << what << std::endl;
  }

  // Estimated from the epochs trained since the start, those of all runs taken as equally long; "" where nothing is known or left.
  std::string time_left() const {
    double done = 0, all = 0;
    for (size_t i : waiting_) {
      const Run& run = *runs_[i];
      const double epochs = double(run.training.run.epochs) - run.epochs_before;
      all += epochs;
      done += run.over() || !run.failure.empty() ? epochs : std::max(0.0, run.result.epochs_done - run.epochs_before);
    }
    if (done == 0 || done == all) return "";
    return minutes(std::chrono::duration<double>(Clock::now() - start_).count() * (all - done) / done) + " left";
  }

  void show_progress(const std::vector<size_t>& running) {
    std::string line;
    for (size_t i : running) {
      runs_[i]->read_result();
      line += format("run %zu of %zu: %s, epoch %.1f of %lld; ", i + 1, runs_.size(), runs_[i]->title().c_str(),
                     runs_[i]->result.epochs_done, (long long)(runs_[i]->training.run.epochs));
    }
    progress_.show(line + time_left());
  }

  void report(const std::string& configuration) {
    Comparison comparison;
    size_t failed = 0;
    for (const auto& run : runs_) {
      if (run->training.trainer.seed == seeds_[0]) comparison.push_back({run->entry, {}});
      comparison.back().runs.push_back({run->training.trainer.seed, run->folder.path(), run->result, run->failure});
      failed += !run->failure.empty();
    }
    const std::string title = format("%s on %s, %d stages, %lld epochs", shared_.model.c_str(), shared_.data.c_str(),
                                     shared_.trainer.stages, (long long)(shared_.run.epochs));
    write_file(out_ + "/compare.json", comparison_json(comparison) + "\n");
    write_file(out_ + "/compare.md", comparison_markdown(title, configuration, comparison));
    write_file(out_ + "/report.html", comparison_html(title, configuration, comparison));
    std::cout << "\n"
              << comparison_text(comparison) << "\nfiles in " << out_ << ": report.html (open it), compare.md, compare.json" << std::endl;
    if (failed) throw Error(std::to_string(failed) + " of " + std::to_string(runs_.size()) + " runs failed; the same command repeats them");
  }

  std::string methods_ = "vanilla,pipeoptim,gpipe", out_ = "runs/comparison";
  std::vector<uint64_t> seeds_{1, 2, 3};
  int parallel_ = 1;
  bool overwrite_ = false;
  TrainingOptions shared_;
  Runs runs_;
  std::vector<size_t> waiting_;  // runs that are not kept
  Clock::time_point start_;
  Progress progress_;
};

}  // namespace

std::unique_ptr<Command> compare_command() { return std::make_unique<CompareCommand>(); }

}  // namespace pipecast
