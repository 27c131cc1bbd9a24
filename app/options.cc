#include "app/options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <iostream>
#include <set>

#include "app/config_file.h"
#include "engine/utf8.h"

namespace pipecast {
namespace {

template <class T>
std::string to_text(T value) {
  char buffer[64];
  // The shortest text that reads back the same.
  if constexpr (std::is_integral_v<T>) return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
  else return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::general).ptr};
}

template <class T>
T parse_number(const std::string& name, const std::string& text, T least, T most) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [after, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc() && after == end && value >= least && value <= most) return value;  // what is not a number is in no range
  throw UsageError("option --" + name + ": '" + shown(text) + "' is not a " + (std::is_integral_v<T> ? "whole " : "") + "number from " +
                   to_text(least) + " to " + to_text(most));
}

}  // namespace

void Options::add(Entry entry) {
  entry.group = group_;
  entries_.push_back(std::move(entry));
}

void Options::text(const std::string& name, std::string& value, const std::string& placeholder, const std::string& help) {
  auto set = [&value, name](const std::string& text) {
    if (text.find_first_of("\r\n") != std::string::npos) throw UsageError("option --" + name + ": the value has more than one line");
    if (!is_utf8(text))
      throw UsageError("option --" + name + ": '" + shown(text) + "' is not UTF-8, and all that pipecast writes is; rename the file or folder");
    value = text;
  };
  add({.name = name,
       .placeholder = placeholder,
       .help = help,
       .group = {},
       .set = set,
       .get = [&value] { return value; },
       .is_text = true});
}

void Options::flag(const std::string& name, bool& value, const std::string& help) {
  auto set = [&value, name](const std::string& text) {
    if (text != "true" && text != "false") throw UsageError("option --" + name + ": '" + shown(text) + "' is neither true nor false");
    value = text == "true";
  };
  auto get = [&value] { return std::string(value ? "true" : "false"); };
  add({.name = name, .placeholder = {}, .help = help, .group = {}, .set = set, .get = get, .is_flag = true});
}

template <class T>
void Options::number(const std::string& name, T& value, const std::string& placeholder, const std::string& help,
                     std::type_identity_t<T> least, std::type_identity_t<T> most) {
  auto set = [&value, name, least, most](const std::string& text) { value = parse_number(name, text, least, most); };
  add({.name = name, .placeholder = placeholder, .help = help, .group = {}, .set = set, .get = [&value] { return to_text(value); }});
}
template void Options::number(const std::string&, int&, const std::string&, const std::string&, int, int);
template void Options::number(const std::string&, int64_t&, const std::string&, const std::string&, int64_t, int64_t);
template void Options::number(const std::string&, uint64_t&, const std::string&, const std::string&, uint64_t, uint64_t);
template void Options::number(const std::string&, float&, const std::string&, const std::string&, float, float);
template void Options::number(const std::string&, double&, const std::string&, const std::string&, double, double);

template <class T>
void Options::numbers(const std::string& name, std::vector<T>& values, const std::string& placeholder, const std::string& help,
                      std::type_identity_t<T> least, std::type_identity_t<T> most) {
  auto set = [&values, name, least, most](const std::string& text) {
    values.clear();
    for (size_t begin = 0, end = 0; !text.empty() && end != std::string::npos; begin = end + 1) {
      end = text.find(',', begin);
      values.push_back(parse_number(name, text.substr(begin, end - begin), least, most));
    }
  };
  auto get = [&values] {
    std::vector<std::string> texts;
    for (T value : values) texts.push_back(to_text(value));
    std::string text = list(texts);
    std::erase(text, ' ');
    return text;
  };
  add({.name = name, .placeholder = placeholder, .help = help, .group = {}, .set = set, .get = get, .is_text = true});
}
template void Options::numbers(const std::string&, std::vector<double>&, const std::string&, const std::string&, double, double);
template void Options::numbers(const std::string&, std::vector<uint64_t>&, const std::string&, const std::string&, uint64_t, uint64_t);

Options::Entry& Options::entry(const std::string& name) {
  for (Entry& entry : entries_)
    if (entry.name == name) return entry;
  throw Error("there is no option --" + name);
}

std::string Options::written_config() const {
  std::string text;
  for (const Entry& entry : entries_)
    if (entry.in_config) text += config_line(entry.name, entry.get(), entry.is_text);
  return text;
}

namespace {

// A command beside what it is called with.
struct Called {
  Command* command;
  Options options;
  std::string config;
  CLI::App* app;
};

void read_config_into(Called& called, const std::set<std::string>& known, Mistakes& mistakes) {
  for (const ConfigLine& line : read_config(called.config)) {
    bool found = false;
    for (Options::Entry& entry : called.options.entries()) {
      if (entry.name != line.name) continue;
      found = true;
      if (entry.given) continue;  // the command line comes first
      entry.given = true;
      try {
        entry.set(line.value);
      } catch (const UsageError& error) {
        mistakes.add(line.place + ": " + error.what());
      }
    }
    // One file may serve several commands: what another one understands is left to it.
    if (!found && !known.count(line.name))
      mistakes.add(line.place + ": " + unknown_name("option", line.name, {known.begin(), known.end()}));
  }
}

// "bench step" is the command `step` of the command `bench`, which comes before it in the list.
CLI::App* add_subcommand(CLI::App& app, const Command& command) {
  const size_t space = command.name.find(' ');
  if (space == std::string::npos) return app.add_subcommand(command.name, command.summary);
  CLI::App* group = app.get_subcommand(command.name.substr(0, space))->require_subcommand(0, 1);
  return group->add_subcommand(command.name.substr(space + 1), command.summary);
}

void declare(Called& called, Mistakes& mistakes) {
  called.command->declare(called.options);
  called.options.text("config", called.config, "FILE", "read options from a file of lines `name = value`; the command line comes first");
  called.options.not_in_config();
  for (Options::Entry& entry : called.options.entries()) {
    auto set = [&entry, &mistakes](const std::string& text) {
      entry.given = true;
      if (text.starts_with("--")) mistakes.add("option --" + entry.name + " needs a value, but '" + text + "' follows it");
      else mistakes.check([&] { entry.set(text); });
    };
    CLI::Option* option = called.app->add_option_function<std::string>((entry.is_positional ? "" : "--") + entry.name, set, entry.help);
    if (entry.is_flag) option->expected(0)->type_size(0);  // without a value: true
    option->group(entry.group)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    if (entry.is_positional) option->required();
    if (!entry.is_flag) {
      option->type_name(entry.placeholder);
      const std::string initial = entry.get();
      if (!initial.empty()) option->default_str(initial);
    }
  }
}

void report_unknown(const Called& called, Mistakes& mistakes) {
  std::vector<std::string> known;
  for (const Options::Entry& entry : called.options.entries()) known.push_back("--" + entry.name);
  bool value_may_follow = false;
  for (const std::string& argument : called.app->remaining()) {
    if (argument.starts_with("-")) {
      mistakes.add(unknown_option(argument.substr(0, argument.find('=')), known, called.command->name));
    } else if (!value_may_follow) {
      mistakes.add("'" + argument + "' is not understood: options begin with --, and a value follows its option");
    }
    value_may_follow = argument.starts_with("-");
  }
}

// A command that has commands of its own does nothing by itself.
void require_subcommand(const Called& called) {
  const std::string group = called.command->name;
  std::vector<std::string> names;
  for (const CLI::App* one : called.app->get_subcommands([](CLI::App*) { return true; })) names.push_back(one->get_name());
  if (names.empty()) return;
  const std::vector<std::string> rest = called.app->remaining();
  throw UsageError(rest.empty() || rest[0].starts_with("-")
                       ? "which " + group + " command? There are " + list(names) + "; see pipecast " + group + " --help"
                       : unknown_name(group + " command", rest[0], names));
}

}  // namespace

void run_command_line(int count, char** arguments, const std::vector<std::unique_ptr<Command>>& commands) {
  CLI::App app(
      "pipecast trains networks on an asynchronous pipeline whose forward passes run on predicted weights (PipeOptim).\n\n"
      "To start, train ResNet-20 in four stages on pictures that pipecast draws itself:\n\n"
      "  pipecast train --data generated --stages 4",
      "pipecast");
  app.footer(
      "`pipecast COMMAND --help` lists a command's options, with an example.\n"
      "Exit codes: 0 done, 1 the run failed, 2 wrong usage or input, 3 a run was interrupted, is saved and can be resumed.");
  app.require_subcommand(0, 1);
  app.allow_extras();
  bool version = false;
  app.add_flag("--version", version, "Print the version and exit");

  Mistakes mistakes;
  std::vector<std::string> names;
  std::set<std::string> known;  // options of all commands
  std::vector<std::unique_ptr<Called>> all;
  for (const auto& command : commands) {
    if (command->name.find(' ') == std::string::npos) names.push_back(command->name);
    all.push_back(std::make_unique<Called>(Called{command.get(), {}, {}, add_subcommand(app, *command)}));
    declare(*all.back(), mistakes);
    all.back()->app->allow_extras();
    all.back()->app->footer("Examples:\n" + command->examples);
    for (const Options::Entry& entry : all.back()->options.entries()) known.insert(entry.name);
  }

  try {
    app.parse(count, arguments);
  } catch (const CLI::Success&) {  // help was asked for: of the command, where there is one
    return void(std::cout << app.help());
  } catch (const CLI::ArgumentMismatch& error) {  // "--data: 1 required FORMAT:DIR missing"
    const std::string text = error.what();
    throw UsageError("option " + text.substr(0, text.find(':')) + " needs a value after it");
  } catch (const CLI::ParseError& error) {
    throw UsageError(std::string(error.what()) + "; see pipecast --help");
  }
  if (version) return void(std::cout << "pipecast " PIPECAST_VERSION "\n");

  for (const auto& called : all) {
    if (!called->app->parsed() || !called->app->get_subcommands().empty()) continue;
    require_subcommand(*called);
    report_unknown(*called, mistakes);
    if (!called->config.empty()) mistakes.check([&] { read_config_into(*called, known, mistakes); });
    mistakes.report();
    return called->command->run(called->options);
  }
  const std::vector<std::string> rest = app.remaining();
  if (rest.empty()) throw UsageError("which command? There are " + list(names) + "; see pipecast --help");
  throw UsageError(rest[0].starts_with("-") ? "the command comes first, as in: pipecast train " + rest[0]
                                            : unknown_name("command", rest[0], names));
}

std::string unknown_option(const std::string& name, const std::vector<std::string>& known, const std::string& command) {
  const std::string text = unknown_name("option", name, known);  // its list of all that are known would be long
  return text.substr(0, text.find("Known:")) + "'pipecast " + command + " --help' lists them";
}

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace pipecast
