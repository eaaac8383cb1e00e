/* Small matrix products, as one register tile that all three kinds share.

   Contract: `multiply` computes C = start + A B for row-major B and C and any strides of A, so the same tile serves
   values x kernel, gradient x transposed kernel, and the weight gradient, values^T x gradient. Any sizes; widths that are
   multiples of 32 run at the machine's rate, remainders in narrower tiles. */
#pragma once

#include <string.h>

enum { LANES = 16, TILE_ROWS = 8 };

typedef float Vector __attribute__((vector_size(4 * LANES)));

static inline __attribute__((always_inline)) Vector load(const float *from) {
  Vector value;
  memcpy(&value, from, sizeof value);
  return value;
}

static inline __attribute__((always_inline)) void store(float *to, Vector value) { memcpy(to, &value, sizeof value); }

typedef struct {
  const float *values;
  long row, column; /* distances between neighbouring rows and columns */
} Operand;

/* One tile of C, held in registers over the whole depth. `rows` and `vectors` are literals at every call. */
static inline __attribute__((always_inline)) void tile(const int rows, const int vectors, long depth, Operand a,
                                                       const float *b, long b_row, float *c, long c_row,
                                                       const float *bias, int accumulate) {
  Vector sum[TILE_ROWS][4];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
      sum[r][v] = accumulate ? load(c + r * c_row + v * LANES) : bias ? load(bias + v * LANES) : (Vector){0};
  for (long k = 0; k < depth; k++) {
    Vector right[4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) right[v] = load(b + k * b_row + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      const float left = a.values[r * a.row + k * a.column];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) store(c + r * c_row + v * LANES, sum[r][v]);
}

/* All rows of a strip of C that is `vectors` vectors wide. */
static inline __attribute__((always_inline)) void strip(const int vectors, long rows, long depth, Operand a,
                                                        const float *b, long b_row, float *c, long c_row,
                                                        const float *bias, int accumulate) {
  long r = 0;
  for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
    tile(TILE_ROWS, vectors, depth, (Operand){a.values + r * a.row, a.row, a.column}, b, b_row, c + r * c_row, c_row, bias, accumulate);
  for (; r + 4 <= rows; r += 4)
    tile(4, vectors, depth, (Operand){a.values + r * a.row, a.row, a.column}, b, b_row, c + r * c_row, c_row, bias, accumulate);
  for (; r < rows; r++)
    tile(1, vectors, depth, (Operand){a.values + r * a.row, a.row, a.column}, b, b_row, c + r * c_row, c_row, bias, accumulate);
}

/* C[rows][columns] = (accumulate ? C : bias or 0) + A[rows][depth] B[depth][columns]. */
static void multiply(long rows, long columns, long depth, Operand a, const float *b, long b_row, float *c, long c_row,
                     const float *bias, int accumulate) {
  long j = 0;
  for (; j + 2 * LANES <= columns; j += 2 * LANES)
    strip(2, rows, depth, a, b + j, b_row, c + j, c_row, bias ? bias + j : NULL, accumulate);
  for (; j + LANES <= columns; j += LANES)
    strip(1, rows, depth, a, b + j, b_row, c + j, c_row, bias ? bias + j : NULL, accumulate);
  if (j == columns) return;
  for (long r = 0; r < rows; r++)
    for (long column = j; column < columns; column++) {
      float sum = accumulate ? c[r * c_row + column] : bias ? bias[column] : 0;
      for (long k = 0; k < depth; k++) sum += a.values[r * a.row + k * a.column] * b[k * b_row + column];
      c[r * c_row + column] = sum;
    }
}
