// How many threads control groups of Linux leave to a process, from files as systemd, Docker and Kubernetes lay them.
#include "core/cores.h"

#include <map>

#include "harness.h"

namespace {

int cores(const std::map<std::string, std::string>& files) {
  return auxgrad::control_group_cores([&](const std::string& path) {
    const auto found = files.find(path);
    return found == files.end() ? std::string() : found->second;
  });
}

}  // namespace

TEST(control_groups_without_a_limit) {
  CHECK(cores({}) == 0);
  CHECK(cores({{"/proc/self/cgroup", "0::/\n"}}) == 0);
  CHECK(cores({{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "max 100000\n"}}) == 0);
  CHECK(cores({{"/proc/self/cgroup", "3:cpu,cpuacct:/\n"},
               {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"},
               {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}}) == 0);
  CHECK(cores({{"/proc/self/cgroup", "nonsense\n:\n\n"}, {"/sys/fs/cgroup/cpu.max", "100000 100000\n"}}) == 0);
}

TEST(control_groups_limit_the_cores) {
  // A container sees its own group as the root, or only the files of it under a path of the host.
  CHECK(cores({{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "200000 100000\n"}}) == 2);
  CHECK(cores({{"/proc/self/cgroup", "0::/docker/ab\n"}, {"/sys/fs/cgroup/cpu.max", "150000 100000\n"}}) == 2);
  CHECK(cores({{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "10000 100000\n"}}) == 1);
  // The least of the groups around it counts.
  CHECK(cores({{"/proc/self/cgroup", "0::/a.slice/b.service"},
               {"/sys/fs/cgroup/a.slice/cpu.max", "300000 100000\n"},
               {"/sys/fs/cgroup/a.slice/b.service/cpu.max", "400000 50000\n"}}) == 3);
  CHECK(cores({{"/proc/self/cgroup", "0::/a.slice/b.service\n"},
               {"/sys/fs/cgroup/a.slice/cpu.max", "max 100000\n"},
               {"/sys/fs/cgroup/a.slice/b.service/cpu.max", "200000 50000\n"}}) == 4);
  // Version 1, with a version 2 beside it that limits nothing.
  CHECK(cores({{"/proc/self/cgroup", "5:memory:/x\n4:cpuset:/x\n3:cpu,cpuacct:/docker/ab\n0::/x\n"},
               {"/sys/fs/cgroup/cpu/docker/ab/cpu.cfs_quota_us", "250000\n"},
               {"/sys/fs/cgroup/cpu/docker/ab/cpu.cfs_period_us", "100000\n"}}) == 3);
}
