// The fork's layer against differences of itself, with the harness that pipecast's layers are tested with.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "fork.h"
#include "testing/layer_harness.h"

TEST_CASE("silu") { pipecast::testing::check_layer(*mine::silu("silu"), {{2, 3, 3, 17}}); }
