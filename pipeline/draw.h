#pragma once
// What an audit found, for people: a table of versions, and the timeline, in which every pass is at its earliest and one tick long.
#include <string>

#include "pipeline/audit.h"

namespace pipecast {

// Copies and frames per stage, what every pass reads and its lag, then the timeline.
std::string audit_table(const std::string& method, const Setting&, const Audit&);

// Stages downwards, time to the right, in blocks that fit on a page: F3 is the forward of mini-batch 3, B3.1 the backward of its
// micro-batch 1.
std::string draw_text(const Setting&, const Audit&);

// The same as a self-contained SVG. A mini-batch has one colour, lighter in the forward. A box says which version of the weights the
// pass reads, with an arrow to the version that a prediction is meant to be; a dotted frame is a read from the stash.
std::string draw_svg(const std::string& method, const Setting&, const Audit&);

}  // namespace pipecast
