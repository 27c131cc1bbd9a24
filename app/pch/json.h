// Read once for all files of the command: half of them use it, and it takes longer to read than they do.
#include <nlohmann/json.hpp>
