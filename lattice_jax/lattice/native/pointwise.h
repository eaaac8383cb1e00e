/* What happens between the products: activations, normalisation, and sums over neighbours.

   Contract: blocks are row-major [rows][width], one row a sample. Loops are plain so that the compiler vectorises them;
   `neighbour_sum` and `neighbour_products` keep their running sums in registers. Non-finite values stay non-finite. */
#pragma once

#include <math.h>
#include <stdint.h>

#include "products.h"

/* e^x to about 2 units in the last place, without branches (Cephes, expf). */
static inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float n = rintf(x * 1.44269504088896341f);
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * r + 1.3981999507e-3f;
  sum = sum * r + 8.3334519073e-3f;
  sum = sum * r + 4.1665795894e-2f;
  sum = sum * r + 1.6666665459e-1f;
  sum = sum * r + 5.0000001201e-1f;
  const int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return (sum * r * r + r + 1.0f) * power;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

/* gelu by the tanh formula is z sigmoid(2 w), w = sqrt(2/pi) (z + 0.044715 z^3) (Hendrycks and Gimpel 2016). */
static const float GELU_RATE = 1.5957691216057308f; /* 2 sqrt(2/pi) */
static const float GELU_CUBIC = 0.044715f;

static inline float gelu(float z) { return z * sigmoid(GELU_RATE * (z + GELU_CUBIC * z * z * z)); }

/* The activation and its derivative, from one exponential. */
static inline void gelu_and_slope(long size, const float* restrict values, float* restrict active, float* restrict slope) {
  for (long i = 0; i < size; i++) {
    const float z = values[i], s = sigmoid(GELU_RATE * (z + GELU_CUBIC * z * z * z));
    active[i] = z * s;
    slope[i] = s + z * s * (1.0f - s) * GELU_RATE * (1.0f + 3.0f * GELU_CUBIC * z * z);
  }
}

static inline float inverse_root_mean_square(const float* row, long width, float epsilon) {
  float squares = 0;
  for (long i = 0; i < width; i++) squares += row[i] * row[i];
  return 1.0f / sqrtf(squares / (float)width + epsilon);
}

/* out = values / rms(values) * scale, row by row; `out` may be `values`. */
static inline void normalise(long rows, long width, const float* values, const float* scale, float epsilon, float* out) {
  for (long r = 0; r < rows; r++) {
    const float* row = values + r * width;
    const float inverse = inverse_root_mean_square(row, width, epsilon);
    for (long i = 0; i < width; i++) out[r * width + i] = row[i] * inverse * scale[i];
  }
}

/* The adjoint of `normalise`: `gradient` becomes that of `values`, in place, and that of `scale` is added up. */
static inline void normalise_backward(long rows, long width, const float* values, const float* scale, float epsilon,
                                      float* gradient, float* scale_gradient) {
  for (long r = 0; r < rows; r++) {
    const float* row = values + r * width;
    float* restrict change = gradient + r * width;
    const float inverse = inverse_root_mean_square(row, width, epsilon);
    float along = 0;
    for (long i = 0; i < width; i++) along += row[i] * scale[i] * change[i];
    const float shared = along * inverse * inverse * inverse / (float)width;
    for (long i = 0; i < width; i++) {
      scale_gradient[i] += row[i] * inverse * change[i];
      change[i] = inverse * scale[i] * change[i] - shared * row[i];
    }
  }
}

static inline void add_rows(long rows, long width, const float* block, float* restrict sum) {
  for (long r = 0; r < rows; r++)
    for (long i = 0; i < width; i++) sum[i] += block[r * width + i];
}

/* One of a cell's neighbours: what it holds, the weight of each channel, and what the next cell will read in its place. */
typedef struct {
  const float *block, *weights, *upcoming;
} Neighbour;

/* Blocks are read through in groups of eight vectors, in the order in which they lie in memory: a group is some whole rows, or
   a row some whole groups. */
enum { GROUP = 8 * LANES };

static inline int fits_groups(long width) { return width % LANES == 0 && (GROUP % width == 0 || width % GROUP == 0); }

/* out[r][i] = (accumulate ? out : 0) + sum over neighbours of weights[i] * block[r][i]. */
static inline void neighbour_sum(long rows, long width, long count, const Neighbour* around, float* out, int accumulate) {
  const long size = rows * width;
  if (accumulate && count == 0) return;
  long start = 0;
  for (; fits_groups(width) && start + GROUP <= size; start += GROUP) {
    const long column = start % width;
    Vector sum[8];
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++) sum[q] = accumulate ? load(out + start + q * LANES) : (Vector){0};
    for (long k = 0; k < count; k++) {
      const float *weights = around[k].weights, *block = around[k].block + start, *upcoming = around[k].upcoming + start;
#pragma GCC unroll 8
      for (int q = 0; q < 8; q++) {
        sum[q] += load(weights + (column + q * LANES) % width) * load(block + q * LANES);
        __builtin_prefetch(upcoming + q * LANES, 0, 2);
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++) store(out + start + q * LANES, sum[q]);
  }
  for (; start < size; start += width) {
    if (!accumulate) memset(out + start, 0, sizeof(float) * width);
    for (long k = 0; k < count; k++)
#pragma GCC ivdep
      for (long i = 0; i < width; i++) out[start + i] += around[k].weights[i] * around[k].block[start + i];
  }
}

/* sum[i] += sum over rows of gradient[r][i] * block[r][i]: what one neighbour's weights are to change by. */
static inline void neighbour_product(long rows, long width, const float* gradient, const float* block, float* restrict sum) {
  const long size = rows * width, span = width > GROUP ? width : GROUP; /* from a group to the next one of its columns */
  const long grouped = fits_groups(width) ? size / span * span : 0;
  for (long column = 0; column < span && grouped; column += GROUP) {
    Vector part[8] = {{0}};
    for (long start = column; start < grouped; start += span)
#pragma GCC unroll 8
      for (int q = 0; q < 8; q++) part[q] += load(gradient + start + q * LANES) * load(block + start + q * LANES);
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++) {
      float* to = sum + (column + q * LANES) % width;
      store(to, load(to) + part[q]);
    }
  }
  for (long start = grouped; start < size; start += width)
    for (long i = 0; i < width; i++) sum[i] += gradient[start + i] * block[start + i];
}
