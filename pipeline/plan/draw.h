#pragma once
// An audit's result for people: the table of versions, and the timeline, in which every pass takes one tick and runs as early as it can.
#include <string>

#include "pipeline/plan/audit.h"

namespace pipecast {

// Copies and frames per stage, what every pass reads and its lag, then the timeline. title: the name of the programs.
std::string audit_table(const std::string& title, const Audit&);

// Stages downwards, time to the right, in blocks that fit on a page: F3 is the forward of mini-batch 3, B3.1 the backward of its
// micro-batch 1, B3.1c2 that on chunk 2. Throws UsageError for a timeline that is too large to read.
std::string draw_text(const Audit&);
// The timeline up to the fault, which is marked "!".
std::string draw_text(size_t stages, const AuditFault&);

// The same as a self-contained SVG. A mini-batch has one colour, in a shade for each kind of pass. A box says which version of the weights
// the pass reads, with an arrow to the version that a prediction is meant to be; a dotted frame is a read from the stash. A thin line is a
// step, an arc leads from the step that a prediction starts from to the pass that reads it.
std::string draw_svg(const std::string& title, const Audit&);

}  // namespace pipecast
