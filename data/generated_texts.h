#pragma once
// Data sets of generated sequences. `argument` is what follows the colon: SIZE, or TASK:SIZE with copy, reverse, sort or add.
#include "data/dataset.h"

namespace pipecast {

Dataset generated_recall(const std::string& argument, const DataOptions&);       // columns: tokens, length, label
Dataset generated_translation(const std::string& argument, const DataOptions&);  // tokens, length, target_in, target, target_length
Dataset generated_language(const std::string& argument, const DataOptions&);     // tokens, target, length

}  // namespace pipecast
