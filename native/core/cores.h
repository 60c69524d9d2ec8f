// Processor cores that this process may keep busy.
#pragma once
#include <functional>
#include <string>

namespace auxgrad {

// Those of the machine, or fewer where affinity or a control group says so; at least 1.
int available_cores();

// Those that Linux control groups of either version leave this process, rounded up (a container of "--cpus 1.5" has 2);
// 0 without a limit. read() gives the text of a file, or none where there is no such file.
int control_group_cores(const std::function<std::string(const std::string& path)>& read);

}  // namespace auxgrad
