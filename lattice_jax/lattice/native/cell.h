/* One cell: its message, its firing, and the gradients of both.

   Contract: functions read any cell's state of this step and write the given cell's alone, so cells run in any order and on any
   thread. Names follow lattice_jax/lattice/cell.py. Gradients of weights are added up; those of state are replaced, in place, by
   the gradients of the state one step earlier. */
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
  Neighbour *around;
} Scratch;

typedef struct {
  const Lattice *lattice;
  Plan plan;
  float *versions;
  float *sent;            /* [cells][batch][hidden]: every cell's last message */
  float *change, *power;  /* [cells][batch], forward: squares of the visible channels' change, and of themselves */
  float *messages;        /* [cells][batch][hidden], backward, where not kept: the message before its activation */
  float *transposed;      /* [cells][transposed_size], backward */
  uint8_t *is_transposed; /* [cells] */
  float *visible_gradient, *memory_gradient;    /* [cells][batch][channels]: of the state at hand */
  float *perceived_gradient;                    /* [cells][batch][channels]: of what a cell perceived in this step */
  float *gate_gradient, *sent_gradient;         /* [cells][batch][hidden] */
  float *const *gradients;
  const float *squares_gradient;
} Pass;

static inline const float *weight(const Pass *pass, enum Parameter name, long cell) {
  return pass->lattice->weights[name] + cell * pass->lattice->sizes[name];
}

static inline float *gradient(const Pass *pass, enum Parameter name, long cell) {
  return pass->gradients[name] + cell * pass->lattice->sizes[name];
}

static inline Version version(const Pass *pass, long t, long cell, const Scratch *scratch) {
  const Lattice *lattice = pass->lattice;
  const long narrow = lattice->batch * lattice->channels, wide = lattice->batch * lattice->hidden;
  float *start = pass->versions + version_size(lattice) * pass->plan.version[t * lattice->cells + cell];
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
static inline void join(long rows, long width, const float *left, const float *right, float *both) {
  for (long r = 0; r < rows; r++) {
    memcpy(both + 2 * r * width, left + r * width, sizeof(float) * width);
    memcpy(both + (2 * r + 1) * width, right + r * width, sizeof(float) * width);
  }
}

static inline void split_and_add(long rows, long width, const float *both, float *left, float *right) {
  for (long r = 0; r < rows; r++)
    for (long i = 0; i < width; i++) {
      left[r * width + i] += both[2 * r * width + i];
      right[r * width + i] += both[(2 * r + 1) * width + i];
    }
}

static inline void affine(const Lattice *lattice, long depth, long columns, const float *values, const float *kernel,
                          const float *bias, float *out) {
  multiply(lattice->batch, columns, depth, (Operand){values, depth, 1}, kernel, columns, out, columns, bias, 0);
}

/* Adds values^T change to the kernel's gradient and change to the bias's; `out` becomes the gradient of the values. */
static inline void affine_backward(const Lattice *lattice, long depth, long columns, const float *values, const float *change,
                                   const float *transposed, float *kernel_gradient, float *bias_gradient, float *out) {
  multiply(depth, columns, lattice->batch, (Operand){values, 1, depth}, change, columns, kernel_gradient, columns, NULL, 1);
  add_rows(lattice->batch, columns, change, bias_gradient);
  multiply(lattice->batch, depth, columns, (Operand){change, columns, 1}, transposed, depth, out, depth, NULL, 0);
}

static inline long perceived_by(const Pass *pass, long t, long cell, const Scratch *scratch) {
  const Neighbourhood *perception = &pass->lattice->perception;
  long count = 0;
  for (long k = 0; k < perception->count; k++) {
    const int32_t other = perception->table[cell * perception->count + k];
    if (other < 0) continue;
    scratch->around[count++] = (Neighbour){version(pass, t, other, scratch).visible,
                                           weight(pass, PERCEPTION, cell) + k * pass->lattice->channels};
  }
  return count;
}

/* 1 + the neighbours' messages, weighed + bias. */
static inline void compute_gate(const Pass *pass, long cell, Scratch *scratch) {
  const Lattice *lattice = pass->lattice;
  const Neighbourhood *gate = &lattice->gate;
  const long hidden = lattice->hidden, wide = lattice->batch * hidden;
  const float *bias = weight(pass, GATE_BIAS, cell);
  long count = 0;
  for (long k = 0; k < gate->count; k++) {
    const int32_t other = gate->table[cell * gate->count + k];
    if (other >= 0) scratch->around[count++] = (Neighbour){pass->sent + other * wide, weight(pass, GATE, cell) + k * hidden};
  }
  for (long r = 0; r < lattice->batch; r++)
    for (long i = 0; i < hidden; i++) scratch->gate[r * hidden + i] = 1.0f + bias[i];
  neighbour_sum(lattice->batch, hidden, count, scratch->around, scratch->gate, 1);
}

/* From the message before its activation to what the neighbours read. */
static inline void send(const Pass *pass, long cell, const float *message) {
  const Lattice *lattice = pass->lattice;
  const long wide = lattice->batch * lattice->hidden;
  float *sent = pass->sent + cell * wide;
  for (long i = 0; i < wide; i++) sent[i] = gelu(message[i]);
  normalise(lattice->batch, lattice->hidden, sent, weight(pass, GATE_SCALE, cell), lattice->epsilon, sent);
}

static inline void compute_message(const Pass *pass, long t, long cell, Scratch *scratch) {
  const Lattice *lattice = pass->lattice;
  const Version held = version(pass, t, cell, scratch);
  join(lattice->batch, lattice->channels, held.visible, held.memory, scratch->both);
  normalise(lattice->batch, 2 * lattice->channels, scratch->both, weight(pass, MESSAGE_SCALE, cell), lattice->epsilon, scratch->both);
  affine(lattice, 2 * lattice->channels, lattice->hidden, scratch->both, weight(pass, MESSAGE_KERNEL, cell),
         weight(pass, MESSAGE_BIAS, cell), held.message);
}

/* The candidate of a cell, and all that it is computed from. */
static inline void propose(const Pass *pass, long t, long cell, Scratch *scratch) {
  const Lattice *lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden;
  const Version held = version(pass, t, cell, scratch);
  neighbour_sum(batch, channels, perceived_by(pass, t, cell, scratch), scratch->around, held.perceived, 0);
  join(batch, channels, held.perceived, held.memory, scratch->both);
  normalise(batch, 2 * channels, scratch->both, weight(pass, CONTENT_SCALE, cell), lattice->epsilon, scratch->both);
  affine(lattice, 2 * channels, hidden, scratch->both, weight(pass, CONTENT_KERNEL, cell), weight(pass, CONTENT_BIAS, cell), held.content);
  compute_gate(pass, cell, scratch);
  for (long i = 0; i < batch * hidden; i++) scratch->gated[i] = gelu(held.content[i]) * scratch->gate[i];
  affine(lattice, hidden, channels, scratch->gated, weight(pass, CANDIDATE_KERNEL, cell), weight(pass, CANDIDATE_BIAS, cell), held.proposed);
  join(batch, channels, held.proposed, held.memory, scratch->both);
  affine(lattice, 2 * channels, channels, scratch->both, weight(pass, MEMORY_KERNEL, cell), weight(pass, MEMORY_BIAS, cell), held.forget);
  for (long i = 0; i < batch * channels; i++) held.forget[i] = sigmoid(held.forget[i]);
}

static inline float fires(const Lattice *lattice, long t, long cell, long sample) {
  const float *samples = lattice->fires + (t * lattice->cells + cell) * lattice->fires_batch;
  return samples[lattice->fires_batch == 1 ? 0 : sample];
}

static inline int is_clamped(const Lattice *lattice, long cell) { return lattice->held && lattice->face_index[cell] >= 0; }

static void fire(const Pass *pass, long t, long cell, Scratch *scratch) {
  const Lattice *lattice = pass->lattice;
  const long channels = lattice->channels;
  const int clamped = is_clamped(lattice, cell);
  propose(pass, t, cell, scratch);
  const Version held = version(pass, t, cell, scratch), next = version(pass, t + 1, cell, scratch);
  const float *step_size = weight(pass, STEP_SIZE, cell);
  for (long b = 0; b < lattice->batch; b++) {
    const float rate = fires(lattice, t, cell, b), kept = lattice->residual ? 1.0f : 1.0f - rate;
    float change = 0, power = 0;
    for (long i = b * channels, c = 0; c < channels; i++, c++) {
      const float visible = held.visible[i], memory = held.memory[i], proposed = held.proposed[i];
      const float pull = proposed + held.perceived[i] - (lattice->residual ? visible : 0);
      const float moved = kept * visible + rate * step_size[c] * (lattice->bounded ? hyperbolic_tangent(pull) : pull);
      next.memory[i] = memory + rate * held.forget[i] * (proposed - memory);
      next.visible[i] = clamped ? visible : moved;
      change += (next.visible[i] - visible) * (next.visible[i] - visible);
      power += next.visible[i] * next.visible[i];
    }
    pass->change[cell * lattice->batch + b] = change;
    pass->power[cell * lattice->batch + b] = power;
  }
}

/* Where one cell's transposed kernels lie, one after the other. */
typedef struct {
  float *content, *message, *candidate, *memory;
} Transposed;

static inline long transposed_size(const Lattice *lattice) {
  return 2 * lattice->channels * (2 * lattice->hidden + lattice->channels) + lattice->hidden * lattice->channels;
}

static inline void transpose(long rows, long columns, const float *restrict from, float *restrict to) {
  for (long r = 0; r < rows; r += LANES)
    for (long c = 0; c < columns; c += LANES)
      for (long i = r; i < rows && i < r + LANES; i++)
        for (long j = c; j < columns && j < c + LANES; j++) to[j * rows + i] = from[i * columns + j];
}

static inline Transposed transposed(const Pass *pass, long cell) {
  const Lattice *lattice = pass->lattice;
  const long channels = lattice->channels, hidden = lattice->hidden;
  float *content = pass->transposed + cell * transposed_size(lattice);
  float *message = content + 2 * channels * hidden, *candidate = message + 2 * channels * hidden;
  float *memory = candidate + hidden * channels;
  if (!pass->is_transposed[cell]) {
    transpose(2 * channels, hidden, weight(pass, CONTENT_KERNEL, cell), content);
    transpose(2 * channels, hidden, weight(pass, MESSAGE_KERNEL, cell), message);
    transpose(hidden, channels, weight(pass, CANDIDATE_KERNEL, cell), candidate);
    transpose(2 * channels, channels, weight(pass, MEMORY_KERNEL, cell), memory);
    pass->is_transposed[cell] = 1;
  }
  return (Transposed){content, message, candidate, memory};
}

/* The update's adjoint: from the next state's gradient to that of this state, of what was perceived and proposed, and of the
   forget gate before its sigmoid (`scratch->small`). */
static inline void update_backward(const Pass *pass, long t, long cell, Version held, Scratch *scratch) {
  const Lattice *lattice = pass->lattice;
  const long channels = lattice->channels, start = cell * lattice->batch * channels;
  const int clamped = is_clamped(lattice, cell);
  const float *step_size = weight(pass, STEP_SIZE, cell);
  float *restrict step_size_gradient = gradient(pass, STEP_SIZE, cell);
  for (long b = 0; b < lattice->batch; b++) {
    const float rate = fires(lattice, t, cell, b), twice = 2 * pass->squares_gradient[2 * t * lattice->batch + b];
    float *restrict to_visible = pass->visible_gradient + start + b * channels;
    float *restrict to_memory = pass->memory_gradient + start + b * channels;
    float *restrict to_perceived = pass->perceived_gradient + start + b * channels;
    float *restrict to_proposed = scratch->goal + b * channels, *restrict to_forget = scratch->small + b * channels;
    for (long i = b * channels, c = 0; c < channels; i++, c++) {
      const float visible = held.visible[i], memory = held.memory[i], proposed = held.proposed[i], forget = held.forget[i];
      const float pull = proposed + held.perceived[i] - (lattice->residual ? visible : 0);
      const float bounded = lattice->bounded ? hyperbolic_tangent(pull) : pull;
      const float change = rate * (step_size[c] * bounded - (lattice->residual ? 0 : visible));
      const float arriving = clamped ? 0 : to_visible[c] + twice * change;
      const float to_pull = rate * step_size[c] * arriving * (lattice->bounded ? 1 - bounded * bounded : 1);
      const float staying = lattice->residual ? arriving - to_pull : (1 - rate) * arriving;
      step_size_gradient[c] += rate * bounded * arriving;
      to_visible[c] = clamped ? to_visible[c] : staying - twice * change;
      to_perceived[c] = to_pull;
      to_forget[c] = rate * (proposed - memory) * to_memory[c] * forget * (1 - forget);
      to_proposed[c] = to_pull + rate * forget * to_memory[c];
      to_memory[c] *= 1 - rate * forget;
    }
  }
}

static void fire_backward(const Pass *pass, long t, long cell, Scratch *scratch) {
  const Lattice *lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden;
  const long narrow = cell * batch * channels, wide = cell * batch * hidden;
  const Version held = version(pass, t, cell, scratch);
  const Transposed kernels = transposed(pass, cell);
  if (!lattice->kept) propose(pass, t, cell, scratch);
  update_backward(pass, t, cell, held, scratch);

  float *to_memory = pass->memory_gradient + narrow, *to_proposed = scratch->goal;
  join(batch, channels, held.proposed, held.memory, scratch->both);
  affine_backward(lattice, 2 * channels, channels, scratch->both, scratch->small, kernels.memory,
                  gradient(pass, MEMORY_KERNEL, cell), gradient(pass, MEMORY_BIAS, cell), scratch->change);
  split_and_add(batch, channels, scratch->change, to_proposed, to_memory);

  if (lattice->kept) compute_gate(pass, cell, scratch);
  for (long i = 0; i < batch * hidden; i++) {
    scratch->active[i] = gelu(held.content[i]);
    scratch->gated[i] = scratch->active[i] * scratch->gate[i];
  }
  affine_backward(lattice, hidden, channels, scratch->gated, to_proposed, kernels.candidate,
                  gradient(pass, CANDIDATE_KERNEL, cell), gradient(pass, CANDIDATE_BIAS, cell), scratch->slope);
  float *to_gate = pass->gate_gradient + wide, *to_content = scratch->slope;
  for (long i = 0; i < batch * hidden; i++) {
    to_gate[i] = to_content[i] * scratch->active[i];
    to_content[i] *= scratch->gate[i] * gelu_derivative(held.content[i]);
  }
  add_rows(batch, hidden, to_gate, gradient(pass, GATE_BIAS, cell));
  for (long k = 0; k < lattice->gate.count; k++) {
    const int32_t other = lattice->gate.table[cell * lattice->gate.count + k];
    if (other >= 0) neighbour_product(batch, hidden, to_gate, pass->sent + other * batch * hidden, gradient(pass, GATE, cell) + k * hidden);
  }

  float *to_perceived = pass->perceived_gradient + narrow;
  join(batch, channels, held.perceived, held.memory, scratch->both);
  normalise(batch, 2 * channels, scratch->both, weight(pass, CONTENT_SCALE, cell), lattice->epsilon, scratch->change);
  affine_backward(lattice, 2 * channels, hidden, scratch->change, to_content, kernels.content,
                  gradient(pass, CONTENT_KERNEL, cell), gradient(pass, CONTENT_BIAS, cell), scratch->change);
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

static void message_backward(const Pass *pass, long t, long cell, Scratch *scratch) {
  const Lattice *lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden, wide = batch * hidden;
  const Version held = version(pass, t, cell, scratch);
  float *arriving = pass->sent_gradient + cell * wide;
  for (long i = 0; i < wide; i++) scratch->active[i] = gelu(held.message[i]);
  normalise_backward(batch, hidden, scratch->active, weight(pass, GATE_SCALE, cell), lattice->epsilon, arriving,
                     gradient(pass, GATE_SCALE, cell));
  for (long i = 0; i < wide; i++) arriving[i] *= gelu_derivative(held.message[i]);
  join(batch, channels, held.visible, held.memory, scratch->both);
  normalise(batch, 2 * channels, scratch->both, weight(pass, MESSAGE_SCALE, cell), lattice->epsilon, scratch->change);
  affine_backward(lattice, 2 * channels, hidden, scratch->change, arriving, transposed(pass, cell).message,
                  gradient(pass, MESSAGE_KERNEL, cell), gradient(pass, MESSAGE_BIAS, cell), scratch->change);
  normalise_backward(batch, 2 * channels, scratch->both, weight(pass, MESSAGE_SCALE, cell), lattice->epsilon, scratch->change,
                     gradient(pass, MESSAGE_SCALE, cell));
  split_and_add(batch, channels, scratch->change, pass->visible_gradient + cell * batch * channels,
                pass->memory_gradient + cell * batch * channels);
  memset(arriving, 0, sizeof(float) * wide);
}

/* Adds to a cell's state and message what all who read them in step t send back. */
static inline void gather(const Pass *pass, long t, long cell, Scratch *scratch) {
  const Lattice *lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden;
  const uint8_t *fires = pass->plan.fires + t * lattice->cells;
  const Neighbourhood *perception = &lattice->perception, *gate = &lattice->gate;
  long count = 0;
  for (long k = perception->first[cell]; k < perception->first[cell + 1]; k++) {
    const int32_t receiver = perception->receivers[2 * k], offset = perception->receivers[2 * k + 1];
    if (fires[receiver])
      scratch->around[count++] = (Neighbour){pass->perceived_gradient + receiver * batch * channels,
                                             weight(pass, PERCEPTION, receiver) + offset * channels};
  }
  neighbour_sum(batch, channels, count, scratch->around, pass->visible_gradient + cell * batch * channels, 1);
  count = 0;
  for (long k = gate->first[cell]; k < gate->first[cell + 1]; k++) {
    const int32_t receiver = gate->receivers[2 * k], offset = gate->receivers[2 * k + 1];
    if (fires[receiver])
      scratch->around[count++] =
          (Neighbour){pass->gate_gradient + receiver * batch * hidden, weight(pass, GATE, receiver) + offset * hidden};
  }
  neighbour_sum(batch, hidden, count, scratch->around, pass->sent_gradient + cell * batch * hidden, 1);
}
