/* A cell's gradients: of its firing, of its message, and what its readers send back.

   Contract: as cell.h says of firing. Gradients of state are replaced, in place, by those of the state one step earlier. Those
   of the matrices wait, where they are deferred, until a cell's last firing is through: each firing leaves what its products
   were computed from and what arrives at them, and one product over all its firings and samples adds them up, so that a cell's
   gradient is written once and not once a firing. The other gradients of weights, one part in twelve, are added up at once. */
#pragma once

#include "cell.h"

static inline void split_and_add(long rows, long width, const float* both, float* left, float* right) {
  for (long r = 0; r < rows; r++, both += 2 * width, left += width, right += width)
#pragma GCC ivdep
    for (long i = 0; i < width; i++) {
      left[i] += both[i];
      right[i] += both[width + i];
    }
}

static inline int is_matrix(enum Parameter name) {
  return name == CONTENT_KERNEL || name == MESSAGE_KERNEL || name == CANDIDATE_KERNEL || name == MEMORY_KERNEL;
}

/* out = change kernel^T: the gradient of the values of an affine map. It is computed the other way round, kernel times
   change^T, because a batch is turned at less cost than a kernel; `out` may be `change`. */
static inline void affine_backward(const Pass* pass, long cell, enum Parameter kernel, enum Parameter bias, const float* change,
                                   float* out, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long batch = lattice->batch, columns = lattice->sizes[bias], depth = lattice->sizes[kernel] / columns;
  const float* weights = weight(pass, kernel, cell);
  const Upcoming then = upcoming(weight(pass, kernel, scratch->next), lattice->sizes[kernel]);
  if (batch <= FEW && columns % LANES == 0 && depth % LANES == 0) {
    transpose_to_pairs(batch, columns, change, scratch->across);
    multiply_pairs(depth, columns, weights, scratch->across, scratch->back, then);
    transpose_from_pairs(batch, depth, scratch->back, out);
    return;
  }
  const long row = padded(batch);
  transpose_samples(batch, columns, change, scratch->across);
  multiply(depth, row, columns, (Operand){weights, columns, 1}, scratch->across, row, scratch->back, row, NULL, 0, then);
  transpose_to_samples(batch, depth, scratch->back, out);
}

/* The gradients of an affine map's kernel and bias, over `rows` rows of what went in and of what arrives: the kernel's is added
   to what is there already, or written. */
static inline void affine_gradients(const Pass* pass, long cell, enum Parameter kernel, enum Parameter bias, long rows,
                                    const float* values, const float* change, int accumulate, const Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long columns = lattice->sizes[bias], depth = lattice->sizes[kernel] / columns;
  multiply(depth, columns, rows, (Operand){values, 1, depth}, change, columns, gradient(pass, kernel, cell), columns, NULL,
           accumulate, upcoming(gradient(pass, kernel, scratch->next), lattice->sizes[kernel]));
  add_rows(rows, columns, change, gradient(pass, bias, cell));
}

/* Where what arrives at a cell's products goes: where deferred, in the place of what they made. Otherwise it is of no further
   use, and what was kept would be written back to memory for nothing. */
static inline Version arriving_at(const Pass* pass, Version held, const Scratch* scratch) {
  return pass->lattice->deferred ? held : scratch->own;
}

/* What `rows` rows of firings leave to the matrices that a candidate goes through; `held` is the first of them, `arriving` what
   arrives there, `inputs` what the content was made of. */
static inline void fired_gradients(const Pass* pass, long cell, long rows, Version held, Version arriving, const float* inputs,
                                   int accumulate, Scratch* scratch) {
  const long channels = pass->lattice->channels;
  affine_gradients(pass, cell, CONTENT_KERNEL, CONTENT_BIAS, rows, inputs, arriving.content, accumulate, scratch);
  affine_gradients(pass, cell, CANDIDATE_KERNEL, CANDIDATE_BIAS, rows, arriving.gated, arriving.to_proposed, accumulate,
                   scratch);
  join(rows, channels, held.proposed, held.memory, scratch->inputs);
  affine_gradients(pass, cell, MEMORY_KERNEL, MEMORY_BIAS, rows, scratch->inputs, arriving.forget, accumulate, scratch);
}

/* All of a cell's firings and messages together, where they are deferred. */
static void matrix_gradients(const Pass* pass, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long first = pass->plan.first[cell], count = pass->plan.first[cell + 1] - first;
  const long wide = lattice->batch * lattice->hidden;
  const Version held = version(pass, 0, cell, scratch);
  const long fired = (count - 1) * lattice->batch; /* the last version is the one that stays */
  normalise_pair(fired, lattice->channels, held.perceived, held.memory, weight(pass, CONTENT_SCALE, cell), lattice->epsilon,
                 scratch->inputs);
  fired_gradients(pass, cell, fired, held, held, scratch->inputs, 0, scratch);
  for (long i = 0; i < count; i++)
    if (!pass->plan.sent[first + i]) memset(held.message + i * wide, 0, sizeof(float) * wide);
  normalise_pair(count * lattice->batch, lattice->channels, held.visible, held.memory, weight(pass, MESSAGE_SCALE, cell),
                 lattice->epsilon, scratch->inputs);
  affine_gradients(pass, cell, MESSAGE_KERNEL, MESSAGE_BIAS, count * lattice->batch, scratch->inputs, held.message, 0, scratch);
}

/* The update's adjoint: from the next state's gradient to that of this state, of how far the cell moved, of what was perceived
   and proposed, and of the forget gate before its sigmoid. */
static inline void update_backward(const Pass* pass, long t, long cell, Version held, Version arriving) {
  const Lattice* lattice = pass->lattice;
  const long channels = lattice->channels, start = cell * lattice->batch * channels;
  const int bounded = lattice->bounded;
  const float residual = lattice->residual, free = !is_clamped(lattice, cell); /* as factors, 0 or 1 */
  const float* step_size = weight(pass, STEP_SIZE, cell);
  float* step_size_gradient = gradient(pass, STEP_SIZE, cell);
  for (long b = 0; b < lattice->batch; b++) {
    const float rate = lattice->fires[firing_place(lattice, t, cell, b)],
                twice = 2 * pass->squares_gradient[2 * t * lattice->batch + b];
    float to_rate = 0;
    const float *visible = held.visible + b * channels, *memory = held.memory + b * channels;
    const float *perceived = held.perceived + b * channels, *proposed = held.proposed + b * channels;
    const float* forget = held.forget + b * channels;
    float *to_visible = pass->visible_gradient + start + b * channels,
          *to_memory = pass->memory_gradient + start + b * channels;
    float* to_perceived = pass->perceived_gradient + start + b * channels;
    float *to_proposed = arriving.to_proposed + b * channels, *to_forget = arriving.forget + b * channels;
#pragma GCC ivdep
    for (long c = 0; c < channels; c++) {
      const float pull = proposed[c] + perceived[c] - residual * visible[c];
      const float bound = bounded ? hyperbolic_tangent(pull) : pull;
      const float motion = step_size[c] * bound - (1 - residual) * visible[c], change = rate * motion;
      const float arriving = free * (to_visible[c] + twice * change);
      const float to_pull = rate * step_size[c] * arriving * (bounded ? 1 - bound * bound : 1);
      const float staying = (residual + (1 - residual) * (1 - rate)) * arriving - residual * to_pull;
      step_size_gradient[c] += rate * bound * arriving;
      to_visible[c] = (1 - free) * to_visible[c] + free * (staying - twice * change);
      to_perceived[c] = to_pull;
      const float opened = forget[c], to_opened = (proposed[c] - memory[c]) * to_memory[c];
      to_rate += motion * arriving + opened * to_opened;
      to_forget[c] = rate * to_opened * opened * (1 - opened);
      to_proposed[c] = to_pull + rate * opened * to_memory[c];
      to_memory[c] *= 1 - rate * opened;
    }
    pass->fires_gradient[firing_place(lattice, t, cell, b)] += to_rate;
  }
}

/* From the gradient of what went into the candidate, `scratch->to_gated`, to those of the gate, in its place, and of the
   content before its activation. */
static inline void gating_backward(const Pass* pass, long cell, Version held, Version arriving, const Scratch* scratch) {
  const long wide = pass->lattice->batch * pass->lattice->hidden;
  const float *to_gated = scratch->to_gated, *content = held.content;
  float *gate = held.gate, *to_content = arriving.content, *gated = arriving.gated;
#pragma GCC ivdep
  for (long i = 0; i < wide; i++) {
    const float z = content[i], opened = gelu_sigmoid(z), active = z * opened, through = gate[i];
    gated[i] = active * through;
    gate[i] = to_gated[i] * active;
    to_content[i] = to_gated[i] * through * gelu_slope(z, opened);
  }
  add_rows(pass->lattice->batch, pass->lattice->hidden, gate, gradient(pass, GATE_BIAS, cell));
}

static void fire_backward(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, narrow = cell * batch * channels;
  const Version held = version(pass, t, cell, scratch), arriving = arriving_at(pass, held, scratch);
  if (!lattice->kept) propose(pass, t, cell, scratch);
  update_backward(pass, t, cell, held, arriving);

  float* to_memory = pass->memory_gradient + narrow;
  affine_backward(pass, cell, MEMORY_KERNEL, MEMORY_BIAS, arriving.forget, scratch->change, scratch);
  split_and_add(batch, channels, scratch->change, arriving.to_proposed, to_memory);

  affine_backward(pass, cell, CANDIDATE_KERNEL, CANDIDATE_BIAS, arriving.to_proposed, scratch->to_gated, scratch);
  gating_backward(pass, cell, held, arriving, scratch);

  affine_backward(pass, cell, CONTENT_KERNEL, CONTENT_BIAS, arriving.content, scratch->change, scratch);
  normalise_pair_backward(batch, channels, held.perceived, held.memory, weight(pass, CONTENT_SCALE, cell), lattice->epsilon,
                          scratch->change, gradient(pass, CONTENT_SCALE, cell), pass->perceived_gradient + narrow, to_memory);
  if (!lattice->deferred)
    fired_gradients(pass, cell, batch, held, arriving, scratch->change, !is_last_firing(&pass->plan, t, cell), scratch);
}

static void message_backward(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long batch = lattice->batch, channels = lattice->channels, hidden = lattice->hidden, narrow = cell * batch * channels;
  const Version held = version(pass, t, cell, scratch), arriving = arriving_at(pass, held, scratch);
  activate_and_normalise_backward(batch, hidden, held.message, weight(pass, GATE_SCALE, cell), lattice->epsilon,
                                  pass->sent_gradient + cell * batch * hidden, gradient(pass, GATE_SCALE, cell),
                                  arriving.message, scratch->row, scratch->slope);
  affine_backward(pass, cell, MESSAGE_KERNEL, MESSAGE_BIAS, arriving.message, scratch->change, scratch);
  normalise_pair_backward(batch, channels, held.visible, held.memory, weight(pass, MESSAGE_SCALE, cell), lattice->epsilon,
                          scratch->change, gradient(pass, MESSAGE_SCALE, cell), pass->visible_gradient + narrow,
                          pass->memory_gradient + narrow);
  if (!lattice->deferred)
    affine_gradients(pass, cell, MESSAGE_KERNEL, MESSAGE_BIAS, batch, scratch->change, arriving.message,
                     !is_last_message(&pass->plan, t, cell), scratch);
}

/* What a cell that fired in step t sends back to those whom it read. */
static inline const float* sent_back(const Pass* pass, enum Parameter weights, long t, long cell, const Scratch* scratch) {
  if (weights == GATE) return version(pass, t, cell, scratch).gate;
  return pass->perceived_gradient + cell * pass->lattice->batch * pass->lattice->channels;
}

/* Who reads a cell in step t, and what they send back: the gradients of what they perceived, or of their gates. */
static inline long heard_by(const Pass* pass, const Neighbourhood* around, enum Parameter weights, long t, long cell,
                            const Scratch* scratch) {
  const uint8_t* fires = pass->plan.fires + t * pass->lattice->cells;
  const long width = pass->lattice->sizes[weights] / around->count;
  const long next = around->first[scratch->next] - around->first[cell], last = around->first[pass->lattice->cells] - 1;
  long count = 0;
  for (long k = around->first[cell]; k < around->first[cell + 1]; k++) {
    const long receiver = around->receivers[2 * k], offset = around->receivers[2 * k + 1];
    if (!fires[receiver]) continue;
    const int32_t* then = around->receivers + 2 * (k + next < last ? k + next : last);
    scratch->around[count++] =
        (Neighbour){sent_back(pass, weights, t, receiver, scratch), weight(pass, weights, receiver) + offset * width,
                    sent_back(pass, weights, t, then[0], scratch), gradient(pass, weights, receiver) + offset * width};
  }
  return count;
}

/* Adds to a cell's state what all who perceived it in step t send back. */
static void perceive_backward(const Pass* pass, long t, long cell, Scratch* scratch) {
  const long batch = pass->lattice->batch, channels = pass->lattice->channels;
  const long readers = heard_by(pass, &pass->lattice->perception, PERCEPTION, t, cell, scratch);
  neighbour_adjoint(batch, channels, readers, scratch->around, version(pass, t, cell, scratch).visible,
                    pass->visible_gradient + cell * batch * channels, 1);
}

/* Adds to a cell's message what all who heard it in step t send back. No later step has heard this message if there is none, or
   if the cell made another one of what it held then. */
static inline void hear_backward(const Pass* pass, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = pass->lattice;
  const long batch = lattice->batch, hidden = lattice->hidden;
  const int is_last = t == lattice->steps - 1 || pass->plan.fires[t * lattice->cells + cell];
  const long hearers = heard_by(pass, &lattice->gate, GATE, t, cell, scratch);
  neighbour_adjoint(batch, hidden, hearers, scratch->around, version(pass, t, cell, scratch).sent,
                    pass->sent_gradient + cell * batch * hidden, !is_last);
}
