// out[t] = sum over p of g[p] (x) x[p + t], for the taps t of a convolution; pixels lie as b h w f and b hh ww g.
//
// Taps side by side in a row of the kernel are one run: their features follow each other in memory. Three features of x
// by 32 of g are twelve vectors of sums, which stay in registers while some rows of an image pass.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <omp.h>

namespace {

constexpr int64_t LANES = 8;             // of a vector: AVX2
constexpr int64_t LINE = 16;             // floats that memory hands over at once
constexpr int64_t LINES = 16;            // asked for at once; more would have to queue
constexpr int64_t PIXELS_AT_ONCE = 112;  // of x and g, with 32 features each, are in the first cache
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

// Some rows of an image; width: pixels from one row to the next.
struct Rows {
  const float* pixels;
  int64_t features, width;
};

// What is read next, asked for little by little while something else is computed.
struct Ahead {
  const float *from, *end;

  void ask() {
    for (int64_t line = 0; line < LINES && from < end; line++, from += LINE) __builtin_prefetch(from);
  }
};

// sums[i][j] += x[., i] g[., j], over rows x columns pixels
template <int FEATURES, int VECTORS>
void tile(float* sums, const Rows& x, const Rows& g, int64_t rows, int64_t columns) {
  Lanes total[FEATURES][VECTORS] = {};
  for (int64_t row = 0; row < rows; row++) {
    const float* of_x = x.pixels + row * x.width * x.features;
    const float* of_g = g.pixels + row * g.width * g.features;
    for (int64_t column = 0; column < columns; column++, of_x += x.features, of_g += g.features) {
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; j++) {
        Lanes lanes = *reinterpret_cast<const Lanes*>(of_g + j * LANES);
        asm("" : "+x"(lanes));  // loaded once, for all features; the compiler would load it for each
#pragma GCC unroll 8
        for (int i = 0; i < FEATURES; i++) total[i][j] += of_x[i] * lanes;
      }
    }
  }
  for (int i = 0; i < FEATURES; i++)
    for (int j = 0; j < VECTORS; j++) *reinterpret_cast<Lanes*>(sums + i * g.features + j * LANES) += total[i][j];
}

// The same for `length` features of x by as many of g, from `first` on, as fill VECTORS vectors; where it stopped.
template <int VECTORS>
int64_t strip(float* sums, int64_t length, Rows x, Rows g, int64_t first, int64_t rows, int64_t columns, Ahead* ahead) {
  constexpr int HIGH = VECTORS == 4 ? 3 : 6;
  const float *const of_x = x.pixels, *const of_g = g.pixels;
  for (; first + VECTORS * LANES <= g.features; first += VECTORS * LANES) {
    g.pixels = of_g + first;
    for (int64_t i = 0, high; i < length; i += high) {
      ahead[0].ask();
      ahead[1].ask();
      x.pixels = of_x + i;
      float* const to = sums + i * g.features + first;
      high = i + HIGH <= length ? HIGH : i + 2 <= length ? 2 : 1;
      if (high == HIGH) tile<HIGH, VECTORS>(to, x, g, rows, columns);
      else if (high == 2) tile<2, VECTORS>(to, x, g, rows, columns);
      else tile<1, VECTORS>(to, x, g, rows, columns);
    }
  }
  return first;
}

}  // namespace

// out: g r s f, zeros. runs: row, column and number of each one's taps. of_x, of_g: features, of g a multiple of LANES.
extern "C" void tap_gradient(float* out, const float* x, const float* g, const int64_t* runs, int64_t num_runs,
                             int64_t images, int64_t height, int64_t width, int64_t of_x, int64_t rows,
                             int64_t columns, int64_t of_g, int64_t kernel_rows, int64_t kernel_columns,
                             int64_t threads) {
  int64_t num_taps = 0;
  for (int64_t run = 0; run < num_runs; run++) num_taps += runs[3 * run + 2];
  const int64_t size = num_taps * of_x * of_g, at_once = std::max<int64_t>(1, PIXELS_AT_ONCE / columns);
  const int64_t blocks = (rows + at_once - 1) / at_once;
  threads = std::min(threads, images * blocks);
  std::vector<float> sums(size * threads);  // each thread's own
#pragma omp parallel num_threads(threads)
  {
    float* const own = sums.data() + size * omp_get_thread_num();
#pragma omp for schedule(static)
    for (int64_t block = 0; block < images * blocks; block++) {
      const int64_t image = block / blocks, first = block % blocks * at_once, num = std::min(at_once, rows - first);
      const float* const of_rows = x + (image * height + first) * width * of_x;
      const Rows seen{g + (image * rows + first) * columns * of_g, of_g, columns};
      const float* const next_g = seen.pixels + num * columns * of_g;
      const float* const next_x = of_rows + (num + kernel_rows - 1) * width * of_x;
      Ahead ahead[] = {{next_g, next_g + num * columns * of_g}, {next_x, next_x + num * width * of_x}};
      float* sum = own;
      for (const int64_t* run = runs; run < runs + 3 * num_runs; run += 3) {
        const Rows from{of_rows + (run[0] * width + run[1]) * of_x, of_x, width};
        const int64_t length = run[2] * of_x;
        int64_t done = strip<4>(sum, length, from, seen, 0, num, columns, ahead);
        done = strip<2>(sum, length, from, seen, done, num, columns, ahead);
        strip<1>(sum, length, from, seen, done, num, columns, ahead);
        sum += length * of_g;
      }
    }
  }
  const float* sum = sums.data();
  for (const int64_t* run = runs; run < runs + 3 * num_runs; run += 3) {
    float* const to = out + (run[0] * kernel_columns + run[1]) * of_x;
    for (int64_t i = 0; i < run[2] * of_x; i++)
      for (int64_t j = 0; j < of_g; j++, sum++)
        for (int64_t thread = 0; thread < threads; thread++)
          to[j * kernel_rows * kernel_columns * of_x + i] += sum[thread * size];
  }
}
