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
#include "threads.h"

enum { CHUNK = 1 << 16, GROUP = 1 << 12 };

enum Argument { SETTINGS, WEIGHT_DECAY, THREADS, GRADIENTS };

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

/* A piece of a leaf, and the sum of the squares of its gradient. */
typedef struct {
  const Leaf* leaf;
  long start, size;
  double squares;
} Chunk;

typedef struct {
  const Settings* settings;
  Chunk* chunks;
  long count;
  atomic_long measured, updated; /* chunks that a thread has taken */
  pthread_barrier_t all_measured;
} Update;

/* In float32 within a group, so few that nothing is lost that counts. */
static double sum_of_squares(const Chunk* chunk) {
  const float* values = chunk->leaf->gradient + chunk->start;
  const long size = chunk->size;
  double total = 0;
  for (long start = 0; start < size; start += GROUP) {
    const long end = size - start < GROUP ? size : start + GROUP;
    float sum = 0;
    for (long i = start; i < end; i++) sum += values[i] * values[i];
    total += sum;
  }
  return total;
}

static float norm_of(const Update* update) {
  double squares = 0;
  for (long c = 0; c < update->count; c++) squares += update->chunks[c].squares;
  return (float)sqrt(squares);
}

static void step(const Settings* settings, const Chunk* chunk, float clipped) {
  const Leaf* leaf = chunk->leaf;
  const long start = chunk->start, size = chunk->size;
  const float* restrict gradient = leaf->gradient + start;
  float* restrict values = leaf->values + start;
  float* restrict first = leaf->first + start;
  float* restrict second = leaf->second + start;
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
  for (long c; (c = atomic_fetch_add(&update->measured, 1)) < update->count;)
    update->chunks[c].squares = sum_of_squares(update->chunks + c);
  pthread_barrier_wait(&update->all_measured);
  const float ratio = update->settings->largest_norm / norm_of(update), clipped = ratio >= 1 ? 1 : ratio; /* NaN stays NaN */
  for (long c; (c = atomic_fetch_add(&update->updated, 1)) < update->count;)
    step(update->settings, update->chunks + c, clipped);
  return NULL;
}

static Leaf read_leaf(const XLA_FFI_CallFrame* frame, int index, int leaves) {
  const int gradient = GRADIENTS + index, values = 1 + index;
  return (Leaf){.gradient = argument(frame, gradient),
                .values = result(frame, values),
                .first = result(frame, values + leaves),
                .second = result(frame, values + 2 * leaves),
                .weight_decay = ((const float*)argument(frame, WEIGHT_DECAY))[index],
                .size = argument_size(frame, gradient)};
}

static void run(Update* update, pthread_t* handles, int threads) {
  pthread_barrier_init(&update->all_measured, NULL, threads);
  work_on_threads(work, update, 0, handles, threads);
  pthread_barrier_destroy(&update->all_measured);
}

/* Arguments: settings, weight decay of every leaf, threads; then the gradients of all leaves, their values, first and second
   moments. Results: the norm of the gradients; then values, first and second moments, in place of those. */
XLA_FFI_Error* adamw_update(XLA_FFI_CallFrame* frame) {
  if (answers_query(frame)) return NULL;
  const int count = (int)(frame->args.size - GRADIENTS) / 4, threads = *(const int32_t*)argument(frame, THREADS);
  long most = 0;
  for (int l = 0; l < count; l++) most += argument_size(frame, GRADIENTS + l) / CHUNK + 1;
  Leaf* leaves = malloc(sizeof(Leaf) * count);
  Chunk* chunks = malloc(sizeof(Chunk) * most);
  pthread_t* handles = malloc(sizeof(pthread_t) * threads);
  const char* problem = leaves && chunks && handles ? NULL : "there is no memory for the tables of the update";
  if (!problem) {
    Update update = {.settings = argument(frame, SETTINGS), .chunks = chunks};
    for (int l = 0; l < count; l++) {
      leaves[l] = read_leaf(frame, l, count);
      for (long start = 0, left = leaves[l].size; left > 0; start += CHUNK, left -= CHUNK)
        chunks[update.count++] = (Chunk){leaves + l, start, left < CHUNK ? left : CHUNK, 0};
    }
    run(&update, handles, threads);
    *(float*)result(frame, 0) = norm_of(&update);
  }
  free(leaves);
  free(chunks);
  free(handles);
  return report(frame, problem);
}
