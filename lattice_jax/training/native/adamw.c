/* Clipping by the global norm and AdamW, all parameters in two passes over memory: one for the norm, one for the rest.

   Contract: equals `optax.chain(clip_by_global_norm, adamw)` of lattice_jax/training/schedule.py, up to rounding. Parameters
   and moments are replaced in place. Work is divided in chunks whose sums are added in order, so that the result does not
   depend on the threads. */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "foreign.h"

enum { CHUNK = 1 << 16, GROUP = 1 << 12 };

/* In the order in which Python passes them. */
typedef struct {
  float largest_norm, first_decay, second_decay, first_correction, second_correction, epsilon, learning_rate;
} Settings;

typedef struct {
  const float* gradient;
  float *values, *first, *second;
  float weight_decay;
  long size;
} Leaf;

typedef struct {
  const Settings* settings;
  const Leaf* leaves;
  const int32_t* leaf_of; /* [chunks] */
  const long* start_of;   /* [chunks], in their leaf */
  double* squares;        /* [chunks] */
  long chunks;
  float* norm;
  atomic_long measured, updated; /* chunks that a thread has taken */
  pthread_barrier_t all_measured;
} Update;

/* In float32 within a group, so few that nothing is lost that counts. */
static double sum_of_squares(const float* values, long size) {
  double total = 0;
  for (long start = 0; start < size; start += GROUP) {
    const long end = size - start < GROUP ? size : start + GROUP;
    float sum = 0;
    for (long i = start; i < end; i++) sum += values[i] * values[i];
    total += sum;
  }
  return total;
}

static void step(const Settings* settings, const Leaf* leaf, long start, long size, float clipped) {
  const float* restrict gradient = leaf->gradient + start;
  float* restrict values = leaf->values + start, * restrict first = leaf->first + start, * restrict second = leaf->second + start;
  const float b1 = settings->first_decay, b2 = settings->second_decay, epsilon = settings->epsilon;
  const float rate = settings->learning_rate, decay = leaf->weight_decay;
  const float first_scale = 1 / settings->first_correction, second_scale = 1 / settings->second_correction;
  for (long i = 0; i < size; i++) {
    const float g = gradient[i] * clipped;
    first[i] = b1 * first[i] + (1 - b1) * g;
    second[i] = b2 * second[i] + (1 - b2) * g * g;
    const float direction = first[i] * first_scale / (sqrtf(second[i] * second_scale) + epsilon);
    values[i] -= rate * (direction + decay * values[i]);
  }
}

static void* work(void* argument) {
  Update* update = argument;
  const Leaf* leaves = update->leaves;
  for (long c; (c = atomic_fetch_add(&update->measured, 1)) < update->chunks;) {
    const Leaf* leaf = leaves + update->leaf_of[c];
    const long start = update->start_of[c], size = leaf->size - start < CHUNK ? leaf->size - start : CHUNK;
    update->squares[c] = sum_of_squares(leaf->gradient + start, size);
  }
  pthread_barrier_wait(&update->all_measured);
  double squares = 0;
  for (long c = 0; c < update->chunks; c++) squares += update->squares[c];
  const float norm = (float)sqrt(squares), ratio = update->settings->largest_norm / norm;
  const float clipped = ratio >= 1 ? 1 : ratio; /* NaN stays NaN */
  for (long c; (c = atomic_fetch_add(&update->updated, 1)) < update->chunks;) {
    const Leaf* leaf = leaves + update->leaf_of[c];
    const long start = update->start_of[c], size = leaf->size - start < CHUNK ? leaf->size - start : CHUNK;
    step(update->settings, leaf, start, size, clipped);
  }
  *update->norm = norm;
  return NULL;
}

/* Arguments: settings, weight decay of every leaf, threads; then the gradients of all leaves, their values, first and second
   moments. Results: the norm of the gradients; then values, first and second moments, in place of those. */
XLA_FFI_Error* adamw_update(XLA_FFI_CallFrame* frame) {
  if (answers_query(frame)) return NULL;
  enum { GRADIENTS = 3 };
  const long count = (frame->args.size - GRADIENTS) / 4;
  const float* weight_decay = argument(frame, 1);
  const int threads = *(const int32_t*)argument(frame, 2);
  long chunks = 0;
  for (long l = 0; l < count; l++) chunks += (argument_size(frame, GRADIENTS + l) + CHUNK - 1) / CHUNK;
  Leaf* leaves = malloc(sizeof(Leaf) * count);
  int32_t* leaf_of = malloc(sizeof(int32_t) * (chunks + 1));
  long* start_of = malloc(sizeof(long) * (chunks + 1));
  double* squares = malloc(sizeof(double) * (chunks + 1));
  pthread_t* handles = malloc(sizeof(pthread_t) * threads);
  const char* problem =
      leaves && leaf_of && start_of && squares && handles ? NULL : "there is no memory for the tables of the update";
  if (!problem) {
    long chunk = 0;
    for (long l = 0; l < count; l++) {
      leaves[l] = (Leaf){.gradient = argument(frame, GRADIENTS + l),
                         .values = result(frame, 1 + l),
                         .first = result(frame, 1 + count + l),
                         .second = result(frame, 1 + 2 * count + l),
                         .weight_decay = weight_decay[l],
                         .size = argument_size(frame, GRADIENTS + l)};
      for (long start = 0; start < leaves[l].size; start += CHUNK, chunk++)
        leaf_of[chunk] = (int32_t)l, start_of[chunk] = start;
    }
    Update update = {argument(frame, 0), leaves, leaf_of, start_of, squares, chunks, result(frame, 0)};
    pthread_barrier_init(&update.all_measured, NULL, threads);
    for (int i = 1; i < threads; i++)
      if (pthread_create(&handles[i], NULL, work, &update) != 0) abort(); /* those that run still use this memory */
    work(&update);
    for (int i = 1; i < threads; i++) pthread_join(handles[i], NULL);
    pthread_barrier_destroy(&update.all_measured);
  }
  free(leaves);
  free(leaf_of);
  free(start_of);
  free(squares);
  free(handles);
  return report(frame, problem);
}
