#include "cores.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <thread>

namespace auxgrad {
namespace {

std::string read_file(const std::string& path) {
  std::string text;
  if (std::FILE* file = std::fopen(path.c_str(), "r")) {
    char block[512];
    for (size_t n; (n = std::fread(block, 1, sizeof(block), file)) > 0;) text.append(block, n);
    std::fclose(file);
  }
  return text;
}

}  // namespace

int control_group_cores(const std::function<std::string(const std::string&)>& read) {
  double cores = 0;
  const std::string groups = read("/proc/self/cgroup");
  for (size_t start = 0, end; start < groups.size(); start = end + 1) {
    end = std::min(groups.find('\n', start), groups.size());
    // number:controllers:path, without controllers in version 2
    const std::string line = groups.substr(start, end - start);
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
    // Groups around it limit it, too. In a container the path may be the host's: then only the root is there.
    std::string group = line.substr(second + 1);
    for (size_t parent = group.size(); parent != std::string::npos; parent = group.rfind('/')) {
      group.resize(parent);
      const std::string file = (unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu") + group + "/cpu.";
      const std::string limit =
          unified ? read(file + "max") : read(file + "cfs_quota_us") + " " + read(file + "cfs_period_us");
      double quota = 0, period = 0;  // without a limit "max" or -1
      if (std::sscanf(limit.c_str(), "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0)
        cores = cores > 0 ? std::min(cores, quota / period) : quota / period;
    }
  }
  return static_cast<int>(std::ceil(cores));
}

int available_cores() {
  const int machine = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int group = control_group_cores(read_file);
  return group > 0 ? std::min(machine, group) : machine;
}

}  // namespace auxgrad
