// Matrix products against the BLAS libraries of the machine.
#include "bench.h"
#include "blas.h"

namespace {

struct Shape {
  int64_t m, n, k, batch;
  bool quick;
};

// Whether C = A B, by Freivalds: C r = A (B r) for a vector r of integers. All numbers are integers below 2^53, so both
// sides are exact; a wrong element goes unnoticed only if its error is orthogonal to r, which no single one can be.
std::string check_product(const auxgrad::View& a, const auxgrad::View& b, const float* c, int64_t offset_a,
                          int64_t offset_b) {
  const int64_t m = a.shape[a.rank - 2], k = a.shape[a.rank - 1], n = b.shape[b.rank - 1];
  std::vector<double> r(static_cast<size_t>(n)), br(static_cast<size_t>(k));
  for (int64_t j = 0; j < n; j++) r[static_cast<size_t>(j)] = static_cast<double>(1 + (j * 7919 + 13) % 101);
  const auto at = [](const auxgrad::View& v, int64_t offset, int64_t i, int64_t j) {
    return static_cast<double>(v.f32()[offset + i * v.stride[v.rank - 2] + j * v.stride[v.rank - 1]]);
  };
  if (b.stride[b.rank - 1] == 1) {
    for (int64_t q = 0; q < k; q++)
      for (int64_t j = 0; j < n; j++) br[static_cast<size_t>(q)] += at(b, offset_b, q, j) * r[static_cast<size_t>(j)];
  } else {
    for (int64_t j = 0; j < n; j++)
      for (int64_t q = 0; q < k; q++) br[static_cast<size_t>(q)] += at(b, offset_b, q, j) * r[static_cast<size_t>(j)];
  }
  std::vector<double> expected(static_cast<size_t>(m));
  if (a.stride[a.rank - 1] == 1) {
    for (int64_t i = 0; i < m; i++)
      for (int64_t q = 0; q < k; q++)
        expected[static_cast<size_t>(i)] += at(a, offset_a, i, q) * br[static_cast<size_t>(q)];
  } else {
    for (int64_t q = 0; q < k; q++)
      for (int64_t i = 0; i < m; i++)
        expected[static_cast<size_t>(i)] += at(a, offset_a, i, q) * br[static_cast<size_t>(q)];
  }
  for (int64_t i = 0; i < m; i++) {
    double sum = 0;
    for (int64_t j = 0; j < n; j++) sum += static_cast<double>(c[i * n + j]) * r[static_cast<size_t>(j)];
    if (!(sum == expected[static_cast<size_t>(i)])) return "row " + std::to_string(i) + " of the product is wrong";
  }
  return "";
}

// Operands that a training step would find in memory, not in a cache, take turns from several copies.
bool rotates(const Shape& s) { return s.m <= 16 && s.n * s.k > (int64_t{2} << 20); }

bench::Prepared prepare(Shape s, bool ta, bool tb) {
  const int copies = rotates(s) ? 8 : 1;
  struct Set {
    bench::Array a, b;
    auxgrad::View va, vb;
  };
  auto sets = std::make_shared<std::vector<Set>>();
  for (int i = 0; i < copies; i++) {
    bench::Array a = bench::Array::integers(
        ta ? std::vector<int64_t>{s.batch, s.k, s.m} : std::vector<int64_t>{s.batch, s.m, s.k}, 1);
    bench::Array b = bench::Array::integers(
        tb ? std::vector<int64_t>{s.batch, s.n, s.k} : std::vector<int64_t>{s.batch, s.k, s.n}, 2);
    const auxgrad::View va = ta ? a.transposed() : a.view(), vb = tb ? b.transposed() : b.view();
    sets->push_back({std::move(a), std::move(b), va, vb});
  }
  const auto check = [=](const bench::Array& c) {
    for (int64_t p = 0; p < s.batch; p++) {
      const Set& set = sets->front();
      const std::string wrong = check_product(set.va, set.vb, c.f32() + p * s.m * s.n, p * s.m * s.k, p * s.k * s.n);
      if (!wrong.empty()) return wrong;
    }
    return std::string();
  };
  bench::Prepared prepared;
  prepared.keep = sets;
  {
    bench::Array c({s.batch, s.m, s.n});
    auto calls = std::make_shared<std::vector<bench::KernelCall>>();
    for (const Set& set : *sets)
      calls->emplace_back("matmul", std::vector<auxgrad::View>{set.va, set.vb}, std::vector<auxgrad::View>{c.view()},
                          std::vector<double>{1});
    auto turn = std::make_shared<size_t>(0);
    prepared.contenders.push_back(
        {"auxgrad", [=] { (*calls)[(*turn)++ % calls->size()].run(); }, [=] { return check(c); }});
  }
  for (const bench::Blas& blas : bench::blas_libraries()) {
    bench::Array c({s.batch, s.m, s.n});
    auto turn = std::make_shared<size_t>(0);
    const bench::Blas* library = &blas;
    prepared.contenders.push_back({blas.name,
                                   [=] {
                                     const Set& set = (*sets)[(*turn)++ % sets->size()];
                                     for (int64_t p = 0; p < s.batch; p++)
                                       library->sgemm(ta, tb, s.m, s.n, s.k, set.a.f32() + p * s.m * s.k,
                                                      set.b.f32() + p * s.k * s.n, c.f32() + p * s.m * s.n);
                                   },
                                   [=] { return check(c); }});
  }
  return prepared;
}

}  // namespace

GROUP(gemm, "gemm") {
  const Shape shapes[] = {{64, 64, 64, 1, true},       {256, 256, 256, 1, true},     {512, 512, 512, 1, true},
                          {1024, 1024, 1024, 1, true}, {2048, 2048, 2048, 1, false}, {512, 3072, 768, 1, true},
                          {4096, 256, 256, 1, true},   {128, 1024, 1024, 1, true},   {8, 4096, 4096, 1, true},
                          {64, 64, 64, 96, true}};
  for (const Shape& s : shapes)
    for (int t = 0; t < 4; t++) {
      const bool ta = t & 2, tb = t & 1;
      bench::Case c;
      c.name = (s.batch > 1 ? std::to_string(s.batch) + "*" : "") + std::to_string(s.m) + "x" + std::to_string(s.n) +
               "x" + std::to_string(s.k) + " " + (ta ? "T" : "N") + (tb ? "T" : "N");
      c.flops = 2.0 * static_cast<double>(s.batch * s.m * s.n * s.k);
      c.streams = rotates(s);
      c.bytes = 4.0 * static_cast<double>(s.batch * (s.m * s.k + s.k * s.n + s.m * s.n));
      c.quick = s.quick && (t == 0 || t == 1);
      c.prepare = [=] { return prepare(s, ta, tb); };
      group.add(std::move(c));
    }
}
