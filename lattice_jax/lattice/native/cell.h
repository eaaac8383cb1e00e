/* One cell: what it holds, its message, its firing.

   Contract: functions read any cell's state of this step and write the given cell's alone, so cells run in any order and on any
   thread. Names follow lattice_jax/lattice/cell.py. */
#pragma once

#include "lattice.h"
#include "plan.h"
#include "pointwise.h"

/* What belongs to one version of a cell: its state, and where kept, what it computed from that. Where gradients are deferred,
   `forget`, `content` and `message` become in the backward pass those that arrive at the products which they come from. A gate
   becomes there its gradient. */
typedef struct {
  float *visible, *memory, *perceived, *proposed, *forget; /* [batch][channels] */
  float *message, *content;                                /* [batch][hidden], before the activation */
  float* gate;                                             /* [batch][hidden]: what the candidate's content is multiplied by */
  float* sent;                                             /* [batch][hidden]: what its neighbours read */
  float *to_proposed,
      *gated; /* [batch][channels] and [batch][hidden], backward: what arrives at, and goes into, the candidate */
} Version;

/* One thread's own memory, for the cell at hand. */
typedef struct {
  float *both, *change;     /* [batch][2 channels] */
  float *to_gated, *active; /* [batch][hidden] */
  float *row, *slope;       /* [2 channels or hidden] and [hidden] */
  float *across, *back;     /* [2 channels or hidden][padded(batch)] */
  float* inputs;            /* [versions of one cell][batch][2 channels] */
  Version own;              /* for what is not kept, or not deferred */
  Neighbour* around;
  long next; /* the cell whose turn comes after this one's */
} Scratch;

typedef struct {
  const Lattice* lattice;
  Plan plan;
  Version versions;      /* of all cells: every array holds `plan.versions` blocks, one after the other */
  float* sent;           /* [cells][batch][hidden], where not kept: what every cell's neighbours read */
  float *change, *power; /* [cells][batch], forward: squares of the visible channels' change, and of themselves */
  float* messages;       /* [cells][batch][hidden], backward, where not kept: the message before its activation */
  float *visible_gradient, *memory_gradient; /* [cells][batch][channels]: of the state at hand */
  float* perceived_gradient;                 /* [cells][batch][channels]: of what a cell perceived in this step */
  float *gates, *sent_gradient;              /* [cells][batch][hidden], the gates where not kept */
  float* const* gradients;
  float* fires_gradient;
  const float* squares_gradient;
} Pass;

static inline const float* weight(const Pass* pass, enum Parameter name, long cell) {
  const long sharers = pass->lattice->sharers, copy = sharers == 1 ? cell : cell / sharers; /* a division takes long */
  return pass->lattice->weights[name] + copy * pass->lattice->sizes[name];
}

static inline float* gradient(const Pass* pass, enum Parameter name, long cell) {
  return pass->gradients[name] + cell * pass->lattice->sizes[name];
}

static inline Version version(const Pass* pass, long t, long cell, const Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const Version* all = &pass->versions;
  const long number = pass->plan.version[t * lattice->cells + cell];
  const long narrow = lattice->batch * lattice->channels, wide = lattice->batch * lattice->hidden;
  const long narrow_start = number * narrow, wide_start = number * wide;
  Version held = scratch->own;
  held.visible = all->visible + narrow_start;
  held.memory = all->memory + narrow_start;
  if (!lattice->kept) {
    if (pass->messages) held.message = pass->messages + cell * wide;
    if (pass->gates) held.gate = pass->gates + cell * wide;
    held.sent = pass->sent + cell * wide;
    return held;
  }
  held.perceived = all->perceived + narrow_start;
  held.proposed = all->proposed + narrow_start;
  held.forget = all->forget + narrow_start;
  held.message = all->message + wide_start;
  held.content = all->content + wide_start;
  held.gate = all->gate + wide_start;
  held.sent = all->sent + wide_start;
  if (!lattice->deferred) return held;
  held.to_proposed = all->to_proposed + narrow_start;
  held.gated = all->gated + wide_start;
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

static inline Upcoming upcoming(const float* of_next, long size) { return (Upcoming){of_next, of_next + size, 1}; }

/* out = values kernel + bias. */
static inline void affine(const Pass* pass, long cell, enum Parameter kernel, enum Parameter bias, const float* values,
                          float* out, long next) {
  const Lattice* lattice = pass->lattice;
  const long columns = lattice->sizes[bias], depth = lattice->sizes[kernel] / columns;
  multiply(lattice->batch, columns, depth, (Operand){values, depth, 1}, weight(pass, kernel, cell), columns, out, columns,
           weight(pass, bias, cell), 0, upcoming(weight(pass, kernel, next), lattice->sizes[kernel]));
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
                    version(pass, t, upcoming, scratch).visible, NULL};
  }
  return count;
}

/* 1 + the neighbours' messages, weighed + bias. */
static inline void compute_gate(const Pass* pass, long t, long cell, float* gate, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const Neighbourhood* around = &lattice->gate;
  const long hidden = lattice->hidden;
  const float* bias = weight(pass, GATE_BIAS, cell);
  long count = 0;
  for (long k = 0; k < around->count; k++) {
    const int32_t other = around->table[cell * around->count + k];
    if (other < 0) continue;
    const long upcoming = upcoming_neighbour(around, scratch->next, k, other);
    scratch->around[count++] = (Neighbour){version(pass, t, other, scratch).sent, weight(pass, GATE, cell) + k * hidden,
                                           version(pass, t, upcoming, scratch).sent, NULL};
  }
  for (long i = 0; i < hidden; i++) scratch->row[i] = 1.0f + bias[i];
  neighbour_sum(lattice->batch, hidden, count, scratch->around, scratch->row, gate);
}

/* From the message before its activation to what the neighbours read. */
static inline void send(const Pass* pass, long cell, Version held) {
  const Lattice* lattice = pass->lattice;
  activate_and_normalise(lattice->batch, lattice->hidden, held.message, weight(pass, GATE_SCALE, cell), lattice->epsilon,
                         held.sent);
}

static inline void compute_message(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const Version held = version(pass, t, cell, scratch);
  normalise_pair(lattice->batch, lattice->channels, held.visible, held.memory, weight(pass, MESSAGE_SCALE, cell),
                 lattice->epsilon, scratch->both);
  affine(pass, cell, MESSAGE_KERNEL, MESSAGE_BIAS, scratch->both, held.message, scratch->next);
}

/* The candidate of a cell, and all that it is computed from. */
static inline void propose(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden;
  const Version held = version(pass, t, cell, scratch);
  memset(scratch->row, 0, sizeof(float) * channels);
  neighbour_sum(batch, channels, perceived_by(pass, t, cell, scratch), scratch->around, scratch->row, held.perceived);
  normalise_pair(batch, channels, held.perceived, held.memory, weight(pass, CONTENT_SCALE, cell), lattice->epsilon,
                 scratch->both);
  affine(pass, cell, CONTENT_KERNEL, CONTENT_BIAS, scratch->both, held.content, scratch->next);
  compute_gate(pass, t, cell, held.gate, scratch);
  for (long i = 0; i < batch * hidden; i++) scratch->active[i] = gelu(held.content[i]) * held.gate[i];
  affine(pass, cell, CANDIDATE_KERNEL, CANDIDATE_BIAS, scratch->active, held.proposed, scratch->next);
  join(batch, channels, held.proposed, held.memory, scratch->both);
  affine(pass, cell, MEMORY_KERNEL, MEMORY_BIAS, scratch->both, held.forget, scratch->next);
  for (long i = 0; i < batch * channels; i++) held.forget[i] = sigmoid(held.forget[i]);
}

/* Where `fires` and its gradient have how far a cell moves for a sample in step t. */
static inline long firing_place(const Lattice* lattice, long t, long cell, long sample) {
  return (t * lattice->cells + cell) * lattice->fires_batch + (lattice->fires_batch == 1 ? 0 : sample);
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
    const float rate = lattice->fires[firing_place(lattice, t, cell, b)], staying = residual + (1 - residual) * (1 - rate);
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
