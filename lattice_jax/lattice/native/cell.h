/* One cell: its message, its firing, and the gradients of both.

   Contract: functions read any cell's state of this step and write the given cell's alone, so cells run in any order and on any
   thread. Names follow lattice_jax/lattice/cell.py. Gradients of weights are added up; those of state are replaced, in place,
   by the gradients of the state one step earlier. */
#pragma once

#include "lattice.h"
#include "plan.h"
#include "pointwise.h"

/* What belongs to one version of a cell: its state, and where kept, what it computed from that. */
typedef struct {
  float *visible, *memory, *perceived, *proposed, *forget; /* [batch][channels] */
  float *message, *content;                                /* [batch][hidden], before the activation */
} Version;

/* One thread's own memory, for the cell at hand. */
typedef struct {
  float *both, *change;                 /* [batch][2 channels] */
  float *gate, *gated, *active, *slope; /* [batch][hidden] */
  float *small, *goal;                  /* [batch][channels] */
  Version own;                          /* for what is not kept */
  Neighbour* around;
  long next; /* the cell whose turn comes after this one's */
} Scratch;

typedef struct {
  const Lattice* lattice;
  Plan plan;
  float* versions;
  float* sent;            /* [cells][batch][hidden]: every cell's last message */
  float *change, *power;  /* [cells][batch], forward: squares of the visible channels' change, and of themselves */
  float* messages;        /* [cells][batch][hidden], backward, where not kept: the message before its activation */
  float* transposed;      /* [cells][transposed_size], backward */
  uint8_t* is_transposed; /* [cells] */
  float *visible_gradient, *memory_gradient; /* [cells][batch][channels]: of the state at hand */
  float* perceived_gradient;                 /* [cells][batch][channels]: of what a cell perceived in this step */
  float *gate_gradient, *sent_gradient;      /* [cells][batch][hidden] */
  float* const* gradients;
  const float* squares_gradient;
} Pass;

static inline const float* weight(const Pass* pass, enum Parameter name, long cell) {
  return pass->lattice->weights[name] + cell * pass->lattice->sizes[name];
}

static inline float* gradient(const Pass* pass, enum Parameter name, long cell) {
  return pass->gradients[name] + cell * pass->lattice->sizes[name];
}

static inline Version version(const Pass* pass, long t, long cell, const Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long narrow = lattice->batch * lattice->channels, wide = lattice->batch * lattice->hidden;
  float* start = pass->versions + version_size(lattice) * pass->plan.version[t * lattice->cells + cell];
  Version held = scratch->own;
  held.visible = start;
  held.memory = start + narrow;
  if (!lattice->kept) {
    if (pass->messages) held.message = pass->messages + cell * wide;
    return held;
  }
  held.perceived = start + 2 * narrow;
  held.proposed = start + 3 * narrow;
  held.forget = start + 4 * narrow;
  held.message = start + 5 * narrow;
  held.content = held.message + wide;
  return held;
}

/* [left, right] side by side in every row. */
static inline void join(long rows, long width, const float* left, const float* right, float* both) {
  for (long r = 0; r < rows; r++, both += 2 * width, left += width, right += width)
#pragma GCC ivdep
    for (long i = 0; i < width; i++) {
      both[i] = left[i];
      both[width + i] = right[i];
    }
}

static inline void split_and_add(long rows, long width, const float* both, float* left, float* right) {
  for (long r = 0; r < rows; r++, both += 2 * width, left += width, right += width)
#pragma GCC ivdep
    for (long i = 0; i < width; i++) {
      left[i] += both[i];
      right[i] += both[width + i];
    }
}

static inline Upcoming upcoming(const float* of_all_cells, long size, long next) {
  return (Upcoming){of_all_cells + next * size, of_all_cells + (next + 1) * size};
}

/* out = values kernel + bias. */
static inline void affine(const Pass* pass, long cell, enum Parameter kernel, enum Parameter bias, const float* values,
                          float* out, long next) {
  const Lattice* lattice = pass->lattice;
  const long columns = lattice->sizes[bias], depth = lattice->sizes[kernel] / columns;
  multiply(lattice->batch, columns, depth, (Operand){values, depth, 1}, weight(pass, kernel, cell), columns, out, columns,
           weight(pass, bias, cell), 0, upcoming(lattice->weights[kernel], lattice->sizes[kernel], next));
}

/* The matrices, each with the bias that is as wide as it, in the order in which a cell's transposed ones lie. */
enum { KERNELS = 4 };
static const enum Parameter kernels[KERNELS][2] = {{CONTENT_KERNEL, CONTENT_BIAS},
                                                   {MESSAGE_KERNEL, MESSAGE_BIAS},
                                                   {CANDIDATE_KERNEL, CANDIDATE_BIAS},
                                                   {MEMORY_KERNEL, MEMORY_BIAS}};

/* Where a transposed kernel lies among those of its cell; for no kernel, how many floats these take. */
static inline long transposed_start(const Lattice* lattice, enum Parameter kernel) {
  long start = 0;
  for (int i = 0; i < KERNELS && kernels[i][0] != kernel; i++) start += lattice->sizes[kernels[i][0]];
  return start;
}

static inline long transposed_size(const Lattice* lattice) { return transposed_start(lattice, PARAMETERS); }

/* Kernels are transposed once a pass, when a cell first needs them. */
static inline void transpose_kernels(const Pass* pass, long cell) {
  const Lattice* lattice = pass->lattice;
  if (pass->is_transposed[cell]) return;
  for (int i = 0; i < KERNELS; i++) {
    const long columns = lattice->sizes[kernels[i][1]], rows = lattice->sizes[kernels[i][0]] / columns;
    transpose(rows, columns, weight(pass, kernels[i][0], cell),
              pass->transposed + cell * transposed_size(lattice) + transposed_start(lattice, kernels[i][0]));
  }
  pass->is_transposed[cell] = 1;
}

/* Adds values^T change to the kernel's gradient and change to the bias's; `out` becomes the gradient of the values and may lie
   where these do. */
static inline void affine_backward(const Pass* pass, long cell, enum Parameter kernel, enum Parameter bias, const float* values,
                                   const float* change, float* out, long next) {
  const Lattice* lattice = pass->lattice;
  const long columns = lattice->sizes[bias], depth = lattice->sizes[kernel] / columns;
  const float* transposed = pass->transposed + transposed_start(lattice, kernel);
  const long all = transposed_size(lattice);
  multiply(depth, columns, lattice->batch, (Operand){values, 1, depth}, change, columns, gradient(pass, kernel, cell), columns,
           NULL, 1, upcoming(pass->gradients[kernel], lattice->sizes[kernel], next));
  add_rows(lattice->batch, columns, change, gradient(pass, bias, cell));
  multiply(lattice->batch, depth, columns, (Operand){change, columns, 1}, transposed + cell * all, depth, out, depth, NULL, 0,
           (Upcoming){transposed + next * all, transposed + next * all + lattice->sizes[kernel]});
}

/* The neighbour of `next` at the same place, or `other` where it has none. */
static inline long upcoming_neighbour(const Neighbourhood* around, long next, long offset, long other) {
  const int32_t found = around->table[next * around->count + offset];
  return found >= 0 ? found : other;
}

static inline long perceived_by(const Pass* pass, long t, long cell, const Scratch* scratch) {
  const Neighbourhood* perception = &pass->lattice->perception;
  long count = 0;
  for (long k = 0; k < perception->count; k++) {
    const int32_t other = perception->table[cell * perception->count + k];
    if (other < 0) continue;
    const long upcoming = upcoming_neighbour(perception, scratch->next, k, other);
    scratch->around[count++] =
        (Neighbour){version(pass, t, other, scratch).visible, weight(pass, PERCEPTION, cell) + k * pass->lattice->channels,
                    version(pass, t, upcoming, scratch).visible};
  }
  return count;
}

/* 1 + the neighbours' messages, weighed + bias. */
static inline void compute_gate(const Pass* pass, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const Neighbourhood* gate = &lattice->gate;
  const long hidden = lattice->hidden, wide = lattice->batch * hidden;
  const float* bias = weight(pass, GATE_BIAS, cell);
  long count = 0;
  for (long k = 0; k < gate->count; k++) {
    const int32_t other = gate->table[cell * gate->count + k];
    if (other < 0) continue;
    const long upcoming = upcoming_neighbour(gate, scratch->next, k, other);
    scratch->around[count++] =
        (Neighbour){pass->sent + other * wide, weight(pass, GATE, cell) + k * hidden, pass->sent + upcoming * wide};
  }
  for (long r = 0; r < lattice->batch; r++)
    for (long i = 0; i < hidden; i++) scratch->gate[r * hidden + i] = 1.0f + bias[i];
  neighbour_sum(lattice->batch, hidden, count, scratch->around, scratch->gate, 1);
}

/* From the message before its activation to what the neighbours read. */
static inline void send(const Pass* pass, long cell, const float* message) {
  const Lattice* lattice = pass->lattice;
  const long wide = lattice->batch * lattice->hidden;
  float* sent = pass->sent + cell * wide;
  for (long i = 0; i < wide; i++) sent[i] = gelu(message[i]);
  normalise(lattice->batch, lattice->hidden, sent, weight(pass, GATE_SCALE, cell), lattice->epsilon, sent);
}

static inline void compute_message(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const Version held = version(pass, t, cell, scratch);
  join(lattice->batch, lattice->channels, held.visible, held.memory, scratch->both);
  normalise(lattice->batch, 2 * lattice->channels, scratch->both, weight(pass, MESSAGE_SCALE, cell), lattice->epsilon,
            scratch->both);
  affine(pass, cell, MESSAGE_KERNEL, MESSAGE_BIAS, scratch->both, held.message, scratch->next);
}

/* The candidate of a cell, and all that it is computed from. */
static inline void propose(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden;
  const Version held = version(pass, t, cell, scratch);
  neighbour_sum(batch, channels, perceived_by(pass, t, cell, scratch), scratch->around, held.perceived, 0);
  join(batch, channels, held.perceived, held.memory, scratch->both);
  normalise(batch, 2 * channels, scratch->both, weight(pass, CONTENT_SCALE, cell), lattice->epsilon, scratch->both);
  affine(pass, cell, CONTENT_KERNEL, CONTENT_BIAS, scratch->both, held.content, scratch->next);
  compute_gate(pass, cell, scratch);
  for (long i = 0; i < batch * hidden; i++) scratch->gated[i] = gelu(held.content[i]) * scratch->gate[i];
  affine(pass, cell, CANDIDATE_KERNEL, CANDIDATE_BIAS, scratch->gated, held.proposed, scratch->next);
  join(batch, channels, held.proposed, held.memory, scratch->both);
  affine(pass, cell, MEMORY_KERNEL, MEMORY_BIAS, scratch->both, held.forget, scratch->next);
  for (long i = 0; i < batch * channels; i++) held.forget[i] = sigmoid(held.forget[i]);
}

static inline float fires(const Lattice* lattice, long t, long cell, long sample) {
  const float* samples = lattice->fires + (t * lattice->cells + cell) * lattice->fires_batch;
  return samples[lattice->fires_batch == 1 ? 0 : sample];
}

static inline int is_clamped(const Lattice* lattice, long cell) { return lattice->held && lattice->face_index[cell] >= 0; }

static void fire(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long channels = lattice->channels;
  const int bounded = lattice->bounded;
  const float residual = lattice->residual, free = !is_clamped(lattice, cell); /* as factors, 0 or 1 */
  propose(pass, t, cell, scratch);
  const Version held = version(pass, t, cell, scratch), next = version(pass, t + 1, cell, scratch);
  const float* step_size = weight(pass, STEP_SIZE, cell);
  for (long b = 0; b < lattice->batch; b++) {
    const float rate = fires(lattice, t, cell, b), staying = residual + (1 - residual) * (1 - rate);
    const float *visible = held.visible + b * channels, *memory = held.memory + b * channels;
    const float *perceived = held.perceived + b * channels, *proposed = held.proposed + b * channels;
    const float* forget = held.forget + b * channels;
    float *next_visible = next.visible + b * channels, *next_memory = next.memory + b * channels;
    float change = 0, power = 0;
#pragma GCC ivdep
    for (long c = 0; c < channels; c++) {
      const float pull = proposed[c] + perceived[c] - residual * visible[c];
      const float moved = staying * visible[c] + rate * step_size[c] * (bounded ? hyperbolic_tangent(pull) : pull);
      const float reached = visible[c] + free * (moved - visible[c]);
      next_visible[c] = reached;
      next_memory[c] = memory[c] + rate * forget[c] * (proposed[c] - memory[c]);
      change += (reached - visible[c]) * (reached - visible[c]);
      power += reached * reached;
    }
    pass->change[cell * lattice->batch + b] = change;
    pass->power[cell * lattice->batch + b] = power;
  }
}

/* The update's adjoint: from the next state's gradient to that of this state, of what was perceived and proposed, and of the
   forget gate before its sigmoid (`scratch->small`). */
static inline void update_backward(const Pass* pass, long t, long cell, Version held, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long channels = lattice->channels, start = cell * lattice->batch * channels;
  const int bounded = lattice->bounded;
  const float residual = lattice->residual, free = !is_clamped(lattice, cell); /* as factors, 0 or 1 */
  const float* step_size = weight(pass, STEP_SIZE, cell);
  float* step_size_gradient = gradient(pass, STEP_SIZE, cell);
  for (long b = 0; b < lattice->batch; b++) {
    const float rate = fires(lattice, t, cell, b), twice = 2 * pass->squares_gradient[2 * t * lattice->batch + b];
    const float *visible = held.visible + b * channels, *memory = held.memory + b * channels;
    const float *perceived = held.perceived + b * channels, *proposed = held.proposed + b * channels;
    const float* forget = held.forget + b * channels;
    float *to_visible = pass->visible_gradient + start + b * channels,
          *to_memory = pass->memory_gradient + start + b * channels;
    float* to_perceived = pass->perceived_gradient + start + b * channels;
    float *to_proposed = scratch->goal + b * channels, *to_forget = scratch->small + b * channels;
#pragma GCC ivdep
    for (long c = 0; c < channels; c++) {
      const float pull = proposed[c] + perceived[c] - residual * visible[c];
      const float bound = bounded ? hyperbolic_tangent(pull) : pull;
      const float change = rate * (step_size[c] * bound - (1 - residual) * visible[c]);
      const float arriving = free * (to_visible[c] + twice * change);
      const float to_pull = rate * step_size[c] * arriving * (bounded ? 1 - bound * bound : 1);
      const float staying = (residual + (1 - residual) * (1 - rate)) * arriving - residual * to_pull;
      step_size_gradient[c] += rate * bound * arriving;
      to_visible[c] = (1 - free) * to_visible[c] + free * (staying - twice * change);
      to_perceived[c] = to_pull;
      to_forget[c] = rate * (proposed[c] - memory[c]) * to_memory[c] * forget[c] * (1 - forget[c]);
      to_proposed[c] = to_pull + rate * forget[c] * to_memory[c];
      to_memory[c] *= 1 - rate * forget[c];
    }
  }
}

static void fire_backward(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden;
  const long narrow = cell * batch * channels, wide = cell * batch * hidden;
  const Version held = version(pass, t, cell, scratch);
  transpose_kernels(pass, cell);
  if (!lattice->kept) propose(pass, t, cell, scratch);
  update_backward(pass, t, cell, held, scratch);

  float *to_memory = pass->memory_gradient + narrow, *to_proposed = scratch->goal;
  join(batch, channels, held.proposed, held.memory, scratch->both);
  affine_backward(pass, cell, MEMORY_KERNEL, MEMORY_BIAS, scratch->both, scratch->small, scratch->change, scratch->next);
  split_and_add(batch, channels, scratch->change, to_proposed, to_memory);

  if (lattice->kept) compute_gate(pass, cell, scratch);
  gelu_and_slope(batch * hidden, held.content, scratch->active, scratch->slope);
  for (long i = 0; i < batch * hidden; i++) scratch->gated[i] = scratch->active[i] * scratch->gate[i];
  affine_backward(pass, cell, CANDIDATE_KERNEL, CANDIDATE_BIAS, scratch->gated, to_proposed, scratch->gated, scratch->next);
  float *to_gate = pass->gate_gradient + wide, *to_content = scratch->gated;
  for (long i = 0; i < batch * hidden; i++) {
    to_gate[i] = to_content[i] * scratch->active[i];
    to_content[i] *= scratch->gate[i] * scratch->slope[i];
  }
  add_rows(batch, hidden, to_gate, gradient(pass, GATE_BIAS, cell));
  for (long k = 0; k < lattice->gate.count; k++) {
    const int32_t other = lattice->gate.table[cell * lattice->gate.count + k];
    if (other >= 0)
      neighbour_product(batch, hidden, to_gate, pass->sent + other * batch * hidden, gradient(pass, GATE, cell) + k * hidden);
  }

  float* to_perceived = pass->perceived_gradient + narrow;
  join(batch, channels, held.perceived, held.memory, scratch->both);
  normalise(batch, 2 * channels, scratch->both, weight(pass, CONTENT_SCALE, cell), lattice->epsilon, scratch->change);
  affine_backward(pass, cell, CONTENT_KERNEL, CONTENT_BIAS, scratch->change, to_content, scratch->change, scratch->next);
  normalise_backward(batch, 2 * channels, scratch->both, weight(pass, CONTENT_SCALE, cell), lattice->epsilon, scratch->change,
                     gradient(pass, CONTENT_SCALE, cell));
  split_and_add(batch, channels, scratch->change, to_perceived, to_memory);
  for (long k = 0; k < lattice->perception.count; k++) {
    const int32_t other = lattice->perception.table[cell * lattice->perception.count + k];
    if (other >= 0)
      neighbour_product(batch, channels, to_perceived, version(pass, t, other, scratch).visible,
                        gradient(pass, PERCEPTION, cell) + k * channels);
  }
}

static void message_backward(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden, wide = batch * hidden;
  const Version held = version(pass, t, cell, scratch);
  float* arriving = pass->sent_gradient + cell * wide;
  gelu_and_slope(wide, held.message, scratch->active, scratch->slope);
  normalise_backward(batch, hidden, scratch->active, weight(pass, GATE_SCALE, cell), lattice->epsilon, arriving,
                     gradient(pass, GATE_SCALE, cell));
  for (long i = 0; i < wide; i++) arriving[i] *= scratch->slope[i];
  join(batch, channels, held.visible, held.memory, scratch->both);
  normalise(batch, 2 * channels, scratch->both, weight(pass, MESSAGE_SCALE, cell), lattice->epsilon, scratch->change);
  transpose_kernels(pass, cell);
  affine_backward(pass, cell, MESSAGE_KERNEL, MESSAGE_BIAS, scratch->change, arriving, scratch->change, scratch->next);
  normalise_backward(batch, 2 * channels, scratch->both, weight(pass, MESSAGE_SCALE, cell), lattice->epsilon, scratch->change,
                     gradient(pass, MESSAGE_SCALE, cell));
  split_and_add(batch, channels, scratch->change, pass->visible_gradient + cell * batch * channels,
                pass->memory_gradient + cell * batch * channels);
  memset(arriving, 0, sizeof(float) * wide);
}

/* Who reads a cell in step t, and what they send back: `gradients` by receiver, in blocks of `width` channels. */
static inline long heard_by(const Pass* pass, const Neighbourhood* around, long t, long cell, enum Parameter weights,
                            long width, const float* gradients, const Scratch* scratch) {
  const uint8_t* fires = pass->plan.fires + t * pass->lattice->cells;
  const long block = pass->lattice->batch * width, next = around->first[scratch->next] - around->first[cell];
  const long last = around->first[pass->lattice->cells] - 1;
  long count = 0;
  for (long k = around->first[cell]; k < around->first[cell + 1]; k++) {
    const long receiver = around->receivers[2 * k], offset = around->receivers[2 * k + 1];
    if (!fires[receiver]) continue;
    const long upcoming = around->receivers[2 * (k + next < last ? k + next : last)];
    scratch->around[count++] = (Neighbour){gradients + receiver * block, weight(pass, weights, receiver) + offset * width,
                                           gradients + upcoming * block};
  }
  return count;
}

/* Adds to a cell's state and message what all who read them in step t send back. */
static inline void gather(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden;
  const long readers = heard_by(pass, &lattice->perception, t, cell, PERCEPTION, channels, pass->perceived_gradient, scratch);
  neighbour_sum(batch, channels, readers, scratch->around, pass->visible_gradient + cell * batch * channels, 1);
  const long hearers = heard_by(pass, &lattice->gate, t, cell, GATE, hidden, pass->gate_gradient, scratch);
  neighbour_sum(batch, hidden, hearers, scratch->around, pass->sent_gradient + cell * batch * hidden, 1);
}
