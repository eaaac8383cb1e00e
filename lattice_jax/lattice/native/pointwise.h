/* What happens between the products: activations, normalisation, and sums over neighbours.

   Contract: blocks are row-major [rows][width], one row a sample. Loops are plain so that the compiler vectorises them;
   sums over neighbours keep theirs in registers. Non-finite values stay non-finite. */
#pragma once

#include <math.h>
#include <stdint.h>

#include "products.h"

/* 1 / (1 + 2^x), 2^x to about 2 units in the last place without branches: the power's whole part goes into the exponent, the
   rest into a polynomial (Cephes, exp2f). */
static inline float power_sigmoid(float x) {
  x = x > 125.0f ? 125.0f : x;
  x = x < -125.0f ? -125.0f : x;
  const float whole = rintf(x), rest = x - whole;
  float power = 1.535336188e-4f;
  power = power * rest + 1.339887440e-3f;
  power = power * rest + 9.618437358e-3f;
  power = power * rest + 5.550332471e-2f;
  power = power * rest + 2.402264791e-1f;
  power = power * rest + 6.931472029e-1f;
  power = power * rest + 1.0f;
  int32_t bits;
  memcpy(&bits, &power, sizeof bits);
  bits += (int32_t)((uint32_t)(int32_t)whole << 23);
  memcpy(&power, &bits, sizeof power);
  return 1.0f / (1.0f + power);
}

static const float LOG2_E = 1.44269504088896341f;

static inline float sigmoid(float x) { return power_sigmoid(-LOG2_E * x); }

static inline float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

/* gelu by the tanh formula is z sigmoid(2 w), w = sqrt(2/pi) (z + 0.044715 z^3) (Hendrycks and Gimpel 2016). */
static const float GELU_RATE = 1.5957691216057308f; /* 2 sqrt(2/pi) */
static const float GELU_CUBIC = 0.044715f;

static inline float gelu_sigmoid(float z) {
  return power_sigmoid(z * (-LOG2_E * GELU_RATE - LOG2_E * GELU_RATE * GELU_CUBIC * (z * z)));
}

static inline float gelu(float z) { return z * gelu_sigmoid(z); }

/* The derivative, from the same sigmoid. */
static inline float gelu_slope(float z, float sigmoid) {
  return sigmoid + z * sigmoid * (1.0f - sigmoid) * GELU_RATE * (1.0f + 3.0f * GELU_CUBIC * z * z);
}

static inline float inverse_root(float squares, long width, float epsilon) {
  return 1.0f / sqrtf(squares / (float)width + epsilon);
}

/* out = x / rms(x) * scale, row by row, of x = [left, right] side by side. */
static inline void normalise_pair(long rows, long width, const float* left, const float* right, const float* scale,
                                  float epsilon, float* out) {
  for (long r = 0; r < rows; r++, left += width, right += width, out += 2 * width) {
    float squares = 0;
    for (long i = 0; i < width; i++) squares += left[i] * left[i] + right[i] * right[i];
    const float inverse = inverse_root(squares, 2 * width, epsilon);
#pragma GCC ivdep
    for (long i = 0; i < width; i++) {
      out[i] = left[i] * inverse * scale[i];
      out[width + i] = right[i] * inverse * scale[width + i];
    }
  }
}

/* The adjoint of `normalise_pair`: what arrives in `gradient` is added up to that of left, of right and of the scale, and
   leaves its place to what the pair was normalised to. */
static inline void normalise_pair_backward(long rows, long width, const float* left, const float* right, const float* scale,
                                           float epsilon, float* gradient, float* scale_gradient, float* to_left,
                                           float* to_right) {
  for (long r = 0; r < rows; r++, left += width, right += width, gradient += 2 * width, to_left += width, to_right += width) {
    float squares = 0, along = 0;
    for (long i = 0; i < width; i++) {
      squares += left[i] * left[i] + right[i] * right[i];
      along += left[i] * scale[i] * gradient[i] + right[i] * scale[width + i] * gradient[width + i];
    }
    const float inverse = inverse_root(squares, 2 * width, epsilon);
    const float shared = along * inverse * inverse * inverse / (float)(2 * width);
#pragma GCC ivdep
    for (long i = 0; i < width; i++) {
      const float arriving = gradient[i], arriving_right = gradient[width + i];
      const float unit = left[i] * inverse, unit_right = right[i] * inverse;
      scale_gradient[i] += unit * arriving;
      scale_gradient[width + i] += unit_right * arriving_right;
      to_left[i] += inverse * scale[i] * arriving - shared * left[i];
      to_right[i] += inverse * scale[width + i] * arriving_right - shared * right[i];
      gradient[i] = unit * scale[i];
      gradient[width + i] = unit_right * scale[width + i];
    }
  }
}

/* out = x / rms(x) * scale of x = gelu(values), row by row. */
static inline void activate_and_normalise(long rows, long width, const float* values, const float* scale, float epsilon,
                                          float* out) {
  for (long r = 0; r < rows; r++, values += width, out += width) {
    float squares = 0;
#pragma GCC ivdep
    for (long i = 0; i < width; i++) {
      const float active = gelu(values[i]);
      out[i] = active;
      squares += active * active;
    }
    const float inverse = inverse_root(squares, width, epsilon);
    for (long i = 0; i < width; i++) out[i] *= inverse * scale[i];
  }
}

/* The adjoint of `activate_and_normalise`: `to_values` becomes that of the values, and that of the scale is added up. `active`
   and `slope` are a row each, for the row at hand. */
static inline void activate_and_normalise_backward(long rows, long width, const float* values, const float* scale,
                                                   float epsilon, const float* gradient, float* scale_gradient,
                                                   float* to_values, float* active, float* slope) {
  for (long r = 0; r < rows; r++, values += width, gradient += width, to_values += width) {
    float squares = 0, along = 0;
#pragma GCC ivdep
    for (long i = 0; i < width; i++) {
      const float z = values[i], opened = gelu_sigmoid(z);
      active[i] = z * opened;
      slope[i] = gelu_slope(z, opened);
      squares += active[i] * active[i];
      along += active[i] * scale[i] * gradient[i];
    }
    const float inverse = inverse_root(squares, width, epsilon);
    const float shared = along * inverse * inverse * inverse / (float)width;
#pragma GCC ivdep
    for (long i = 0; i < width; i++) {
      scale_gradient[i] += active[i] * inverse * gradient[i];
      to_values[i] = (inverse * scale[i] * gradient[i] - shared * active[i]) * slope[i];
    }
  }
}

static inline void add_rows(long rows, long width, const float* block, float* restrict sum) {
  long column = 0;
  for (; column + 4 * LANES <= width; column += 4 * LANES) {
    Vector part[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) part[v] = load(sum + column + v * LANES);
    for (long r = 0; r < rows; r++)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) part[v] += load(block + r * width + column + v * LANES);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) store(sum + column + v * LANES, part[v]);
  }
  for (long r = 0; r < rows; r++)
    for (long i = column; i < width; i++) sum[i] += block[r * width + i];
}

/* One of a cell's neighbours: what it holds or sends back, the weight of each channel, what the next cell will read in its
   place, and in the backward pass where the gradient of these weights is added up. */
typedef struct {
  const float *block, *weights, *upcoming;
  float* gradient;
} Neighbour;

/* Blocks are read through in groups of eight vectors, in the order in which they lie in memory: a group is some whole rows, or
   a row some whole groups. */
enum { GROUP = 8 * LANES, AT_ONCE = LANES / 2 };

static inline int fits_groups(long width) { return width % LANES == 0 && (GROUP % width == 0 || width % GROUP == 0); }

/* out[r][i] = start[i] + sum over neighbours of weights[i] * block[r][i]. */
static inline void neighbour_sum(long rows, long width, long count, const Neighbour* around, const float* start, float* out) {
  const long size = rows * width;
  long place = 0;
  for (; fits_groups(width) && place + GROUP <= size; place += GROUP) {
    const long column = place % width;
    Vector sum[8];
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++) sum[q] = load(start + (column + q * LANES) % width);
    for (long k = 0; k < count; k++) {
      const float *weights = around[k].weights, *block = around[k].block + place, *upcoming = around[k].upcoming + place;
#pragma GCC unroll 8
      for (int q = 0; q < 8; q++) {
        sum[q] += load(weights + (column + q * LANES) % width) * load(block + q * LANES);
        __builtin_prefetch(upcoming + q * LANES, 0, 2);
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < 8; q++) store(out + place + q * LANES, sum[q]);
  }
  for (; place < size; place += width) {
    memcpy(out + place, start, sizeof(float) * width);
    for (long k = 0; k < count; k++)
#pragma GCC ivdep
      for (long i = 0; i < width; i++) out[place + i] += around[k].weights[i] * around[k].block[place + i];
  }
}

/* `rows` rows by `vectors` vectors of `neighbour_adjoint`, from `start`, which lies in `column`. Both numbers are literals. */
static inline __attribute__((always_inline)) void adjoint_tile(const int rows, const int vectors, long width, long start,
                                                               long column, long count, const Neighbour* readers,
                                                               const float* own, float* out, int accumulate) {
  Vector sum[AT_ONCE], held[AT_ONCE];
#pragma GCC unroll 8
  for (int q = 0; q < rows * vectors; q++) {
    const long place = start + q / vectors * width + q % vectors * LANES;
    sum[q] = accumulate ? load(out + place) : (Vector){0};
    held[q] = load(own + place);
  }
  for (long k = 0; k < count; k++) {
    const float *weights = readers[k].weights + column, *block = readers[k].block + start;
    const float* upcoming = readers[k].upcoming + start;
    float* gradient = readers[k].gradient + column;
    Vector product[4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) product[v] = load(gradient + v * LANES);
#pragma GCC unroll 8
    for (int q = 0; q < rows * vectors; q++) {
      const long place = q / vectors * width + q % vectors * LANES;
      const Vector sent = load(block + place);
      sum[q] += load(weights + q % vectors * LANES) * sent;
      product[q % vectors] += held[q] * sent;
      __builtin_prefetch(upcoming + place, 0, 2);
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) store(gradient + v * LANES, product[v]);
  }
#pragma GCC unroll 8
  for (int q = 0; q < rows * vectors; q++) store(out + start + q / vectors * width + q % vectors * LANES, sum[q]);
}

/* All rows, `vectors` vectors at once. */
static inline __attribute__((always_inline)) void adjoint_strips(const int vectors, long rows, long width, long count,
                                                                 const Neighbour* readers, const float* own, float* out,
                                                                 int accumulate) {
  for (long column = 0; column < width; column += vectors * LANES) {
    long r = 0;
    for (; r + AT_ONCE / vectors <= rows; r += AT_ONCE / vectors)
      adjoint_tile(AT_ONCE / vectors, vectors, width, r * width + column, column, count, readers, own, out, accumulate);
    for (; r < rows; r++) adjoint_tile(1, vectors, width, r * width + column, column, count, readers, own, out, accumulate);
  }
}

/* The adjoint of `neighbour_sum`, by who was heard instead of by who heard: `own` is what all the readers read, `block` what
   each sends back. out[r][i] = (accumulate ? out : 0) + sum over readers of weights[i] * block[r][i], and to the gradient of
   each one's weights comes the sum over rows of own[r][i] * block[r][i]. */
static inline void neighbour_adjoint(long rows, long width, long count, const Neighbour* readers, const float* own, float* out,
                                     int accumulate) {
  if (accumulate && count == 0) return;
  if (width % (4 * LANES) == 0) {
    adjoint_strips(4, rows, width, count, readers, own, out, accumulate);
    return;
  }
  if (width % (2 * LANES) == 0) {
    adjoint_strips(2, rows, width, count, readers, own, out, accumulate);
    return;
  }
  if (!accumulate) memset(out, 0, sizeof(float) * rows * width);
  for (long k = 0; k < count; k++)
    for (long r = 0; r < rows; r++)
#pragma GCC ivdep
      for (long i = 0; i < width; i++) {
        out[r * width + i] += readers[k].weights[i] * readers[k].block[r * width + i];
        readers[k].gradient[i] += own[r * width + i] * readers[k].block[r * width + i];
      }
}
