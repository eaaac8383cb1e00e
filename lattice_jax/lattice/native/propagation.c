/* The pass through the cube: steps in order, each block by block, on all threads. */
#define _GNU_SOURCE
#include "adjoint.h"
#include "cell.h"
#include "stages.h"
#include "threads.h"

long version_size(const Lattice* lattice) {
  const long state = 2 * lattice->channels, computed = 3 * lattice->channels + 4 * lattice->hidden;
  const long left = lattice->channels + lattice->hidden;
  return lattice->batch * (state + lattice->kept * computed + lattice->deferred * left);
}

/* Where the versions of all cells lie in a buffer: one array after the other. */
static Version lay_out(const Lattice* lattice, float* buffer, long versions) {
  const long narrow = versions * lattice->batch * lattice->channels, wide = versions * lattice->batch * lattice->hidden;
  Version all = {.visible = buffer, .memory = buffer + narrow};
  if (!lattice->kept) return all;
  float* start = buffer + 2 * narrow;
  all.perceived = start;
  all.proposed = start + narrow;
  all.forget = start + 2 * narrow;
  start += 3 * narrow;
  all.message = start;
  all.content = start + wide;
  all.gate = start + 2 * wide;
  all.sent = start + 3 * wide;
  if (!lattice->deferred) return all;
  all.gated = start + 4 * wide;
  all.to_proposed = start + 5 * wide;
  return all;
}

/* Memory that is handed out piece by piece, or only counted where `start` is NULL. */
typedef struct {
  float* start;
  long taken;
} Arena;

/* `size` floats, in whole vectors. */
static float* take(Arena* arena, long size) {
  float* piece = arena->start ? arena->start + arena->taken : NULL;
  arena->taken += (size + LANES - 1) / LANES * LANES;
  return piece;
}

static Scratch make_scratch(const Lattice* lattice, Arena* memory, Neighbour* around) {
  const long narrow = lattice->batch * lattice->channels, wide = lattice->batch * lattice->hidden;
  const long widest = lattice->hidden > 2 * lattice->channels ? lattice->hidden : 2 * lattice->channels;
  const long turned = widest * padded(lattice->batch);
  return (Scratch){
      .both = take(memory, 2 * narrow),
      .change = take(memory, 2 * narrow),
      .to_gated = take(memory, wide),
      .active = take(memory, wide),
      .row = take(memory, widest),
      .slope = take(memory, lattice->hidden),
      .across = take(memory, turned),
      .back = take(memory, turned),
      .inputs = take(memory, 2 * narrow * (lattice->deferred ? lattice->steps + 1 : 1)),
      .own = {.perceived = take(memory, narrow),
              .proposed = take(memory, narrow),
              .forget = take(memory, narrow),
              .to_proposed = take(memory, narrow),
              .message = take(memory, wide),
              .content = take(memory, wide),
              .gate = take(memory, wide),
              .gated = take(memory, wide)},
      .around = around,
  };
}

static long scratch_size(const Lattice* lattice) {
  Arena counted = {NULL, 0};
  make_scratch(lattice, &counted, NULL);
  return counted.taken;
}

/* Neighbours that any one cell reads, or is read by, at most. */
static long largest_neighbourhood(const Lattice* lattice) {
  const Neighbourhood* both[] = {&lattice->perception, &lattice->gate};
  long largest = 0;
  for (int n = 0; n < 2; n++) {
    if (both[n]->count > largest) largest = both[n]->count;
    for (long cell = 0; cell < lattice->cells; cell++) {
      const long readers = both[n]->first[cell + 1] - both[n]->first[cell];
      if (readers > largest) largest = readers;
    }
  }
  return largest;
}

struct Job {
  Pass pass;
  const Forward* forward;
  const Backward* backward;
  float* scratch; /* of all threads */
};

/* Puts the stages of a pass in their order. */
typedef void Arrange(const Job* job, Blocks blocks, Stages* stages);

/* Goes through the stages with all threads; the calling one is number 0. */
static const char* run(const Job* job, Arrange* arrange) {
  const Lattice* lattice = job->pass.lattice;
  const long threads = lattice->threads, neighbours = largest_neighbourhood(lattice);
  const Blocks blocks = blocks_of(lattice);
  Stages stages = {malloc(sizeof(Stage) * most_stages(lattice->steps, blocks)), 0};
  pthread_t* handles = malloc(sizeof(pthread_t) * threads);
  Worker* workers = malloc(sizeof(Worker) * threads);
  Neighbour* around = malloc(sizeof(Neighbour) * threads * neighbours);
  const char* problem = stages.all && handles && workers && around ? NULL : "there is no memory for the threads' tables";
  if (!problem) {
    arrange(job, blocks, &stages);
    for (long i = 0; i < threads; i++) {
      Arena memory = {job->scratch + i * scratch_size(lattice), 0};
      workers[i] = (Worker){job, &stages, make_scratch(lattice, &memory, around + i * neighbours)};
    }
    work_on_threads(work_through_all, workers, sizeof(Worker), handles, threads);
  }
  free(stages.all);
  free(handles);
  free(workers);
  free(around);
  return problem;
}

/* ---- forward ---- */

long forward_workspace_size(const Lattice* lattice, int with_versions) {
  const long kept_states = with_versions ? 0 : 2 * lattice->cells * version_size(lattice);
  const long sent = lattice->kept ? 0 : lattice->cells * lattice->batch * lattice->hidden;
  return kept_states + sent + 2 * lattice->cells * lattice->batch + lattice->threads * scratch_size(lattice);
}

/* What a cell starts with: its part of a field, or zeros where there is none. */
static void copy_or_clear(float* cell_values, const float* field, long start, long size) {
  if (field)
    memcpy(cell_values, field + start, sizeof(float) * size);
  else
    memset(cell_values, 0, sizeof(float) * size);
}

static void start_cell(const Job* job, long t, long cell, Scratch* scratch) {
  const Pass* pass = &job->pass;
  const Lattice* lattice = pass->lattice;
  const long narrow = lattice->batch * lattice->channels;
  const Version held = version(pass, t, cell, scratch);
  const int32_t face = lattice->face_index[cell];
  if (face >= 0)
    memcpy(held.visible, lattice->injected + face * narrow, sizeof(float) * narrow);
  else
    copy_or_clear(held.visible, lattice->start_visible, cell * narrow, narrow);
  copy_or_clear(held.memory, lattice->start_memory, cell * narrow, narrow);
  for (long b = 0; b < lattice->batch; b++) {
    float power = 0;
    for (long c = 0; c < lattice->channels; c++)
      power += held.visible[b * lattice->channels + c] * held.visible[b * lattice->channels + c];
    pass->power[cell * lattice->batch + b] = power;
  }
}

static void send_cell(const Job* job, long t, long cell, Scratch* scratch) {
  compute_message(&job->pass, t, cell, scratch);
  send(&job->pass, cell, version(&job->pass, t, cell, scratch));
}

static void fire_cell(const Job* job, long t, long cell, Scratch* scratch) { fire(&job->pass, t, cell, scratch); }

/* In the order of the cells, whoever computed them, so that runs are repeatable: a stage of one cell's work. */
static void sum_squares(const Job* job, long t, long cell, Scratch* scratch) {
  (void)cell, (void)scratch;
  const Lattice* lattice = job->pass.lattice;
  const Plan* plan = &job->pass.plan;
  const long batch = lattice->batch;
  float *change = job->forward->squares + 2 * t * batch, *power = change + batch;
  memset(change, 0, sizeof(float) * 2 * batch);
  add_rows(lattice->cells, batch, job->pass.power, power);
  for (long i = 0; i < plan->firing_count[t]; i++)
    add_rows(1, batch, job->pass.change + plan->firing[t * lattice->cells + i] * batch, change);
}

static void finish_cell(const Job* job, long t, long cell, Scratch* scratch) {
  const Lattice* lattice = job->pass.lattice;
  const long narrow = lattice->batch * lattice->channels;
  const Version held = version(&job->pass, t, cell, scratch);
  memcpy(job->forward->visible + cell * narrow, held.visible, sizeof(float) * narrow);
  memcpy(job->forward->memory + cell * narrow, held.memory, sizeof(float) * narrow);
}

static void arrange_forward(const Job* job, Blocks blocks, Stages* stages) {
  const Lattice* lattice = job->pass.lattice;
  const Plan* plan = &job->pass.plan;
  add_stage(stages, (Stage){start_cell, 0, plan->every, lattice->cells, 0});
  for (long t = 0; t < lattice->steps; t++) {
    const long start = t * lattice->cells;
    add_step(stages, t, blocks, (HalfStep){send_cell, plan->sending + start, plan->sending_count[t]},
             (HalfStep){fire_cell, plan->firing + start, plan->firing_count[t]});
    add_stage(stages, (Stage){sum_squares, t, plan->every, 1, stages->count});
  }
  add_stage(stages, (Stage){finish_cell, lattice->steps, plan->every, lattice->cells, stages->count});
}

const char* propagate_forward(const Lattice* lattice, const Forward* forward) {
  Job job = {.pass = {.lattice = lattice}, .forward = forward};
  Pass* pass = &job.pass;
  if (!make_plan(&pass->plan, lattice, forward->versions == NULL)) return "there is no memory for the plan of the pass";
  const long size = version_size(lattice);
  const char* problem = NULL;
  if (forward->versions && pass->plan.versions * size > forward->versions_size)
    problem = "more cells fire than the buffer for their versions was made for";
  float* free_space = forward->workspace;
  pass->versions = lay_out(lattice, forward->versions ? forward->versions : free_space, pass->plan.versions);
  if (!forward->versions) free_space += 2 * lattice->cells * size;
  if (!lattice->kept) {
    pass->sent = free_space;
    free_space += lattice->cells * lattice->batch * lattice->hidden;
  }
  pass->change = free_space;
  pass->power = pass->change + lattice->cells * lattice->batch;
  job.scratch = pass->power + lattice->cells * lattice->batch;
  if (!problem) problem = run(&job, arrange_forward);
  free_plan(&pass->plan);
  return problem;
}

/* ---- backward ---- */

long backward_workspace_size(const Lattice* lattice) {
  const long narrow = lattice->cells * lattice->batch * lattice->channels,
             wide = lattice->cells * lattice->batch * lattice->hidden;
  return 3 * narrow + (lattice->kept ? 1 : 4) * wide + lattice->threads * scratch_size(lattice);
}

/* Where it was not kept, has the cell's message as its neighbours heard it in step t. */
static void send_again(const Job* job, long t, long cell, Scratch* scratch) {
  const Pass* pass = &job->pass;
  if (!pass->lattice->kept && pass->plan.sent[pass->plan.version[t * pass->lattice->cells + cell]])
    send_cell(job, t, cell, scratch);
}

static void start_cell_backward(const Job* job, long t, long cell, Scratch* scratch) {
  const Pass* pass = &job->pass;
  const Lattice* lattice = pass->lattice;
  const long narrow = lattice->batch * lattice->channels;
  for (enum Parameter name = 0; name < PARAMETERS; name++)
    if (!is_matrix(name) || (name == MESSAGE_KERNEL ? never_sends(&pass->plan, cell) : never_fires(&pass->plan, cell)))
      memset(gradient(pass, name, cell), 0, sizeof(float) * lattice->sizes[name]);
  memcpy(pass->visible_gradient + cell * narrow, job->backward->visible_gradient + cell * narrow, sizeof(float) * narrow);
  memcpy(pass->memory_gradient + cell * narrow, job->backward->memory_gradient + cell * narrow, sizeof(float) * narrow);
  send_again(job, t, cell, scratch);
}

static void fire_cell_backward(const Job* job, long t, long cell, Scratch* scratch) {
  fire_backward(&job->pass, t, cell, scratch);
}

/* Whether the state that a cell holds in step t is new then, and whether it made a message of it. */
static inline int is_new(const Pass* pass, long t, long cell) {
  return t == 0 || pass->plan.fires[(t - 1) * pass->lattice->cells + cell];
}

static inline int made_message(const Pass* pass, long t, long cell) {
  return is_new(pass, t, cell) && pass->plan.sent[pass->plan.version[t * pass->lattice->cells + cell]];
}

/* After all who fired: what they send back to what they perceived. Cells beside one another were perceived by the same ones. */
static void perceive_back(const Job* job, long t, long cell, Scratch* scratch) {
  perceive_backward(&job->pass, t, cell, scratch);
}

/* After all who fired: what they send back, and where this cell's state was new in step t, the message that it made of it.
   While it does that, it asks for what the next one who made a message will read. */
static void hear_back(const Job* job, long t, long cell, Scratch* scratch) {
  const Pass* pass = &job->pass;
  hear_backward(pass, t, cell, scratch);
  if (made_message(pass, t, cell)) {
    while (scratch->next + 1 < pass->lattice->cells && !made_message(pass, t, scratch->next)) scratch->next++;
    message_backward(pass, t, cell, scratch);
  }
  if (t > 0 && is_new(pass, t, cell)) send_again(job, t - 1, cell, scratch);
}

static void finish_cell_backward(const Job* job, long t, long cell, Scratch* scratch) {
  (void)t;
  const Lattice* lattice = job->pass.lattice;
  if (lattice->deferred) matrix_gradients(&job->pass, cell, scratch);
  const long narrow = lattice->batch * lattice->channels;
  const int32_t face = lattice->face_index[cell];
  if (face >= 0)
    memcpy(job->backward->injected_gradient + face * narrow, job->pass.visible_gradient + cell * narrow,
           sizeof(float) * narrow);
}

static void arrange_backward(const Job* job, Blocks blocks, Stages* stages) {
  const Lattice* lattice = job->pass.lattice;
  const Plan* plan = &job->pass.plan;
  if (!lattice->kept) blocks = (Blocks){lattice->cells, 1}; /* a message that is made again takes the next one's place */
  add_stage(stages, (Stage){start_cell_backward, lattice->steps - 1, plan->every, lattice->cells, 0});
  for (long t = lattice->steps - 1; t >= 0; t--)
    add_step(stages, t, blocks, (HalfStep){fire_cell_backward, plan->firing + t * lattice->cells, plan->firing_count[t]},
             (HalfStep){hear_back, plan->every, lattice->cells, perceive_back});
  add_stage(stages, (Stage){finish_cell_backward, 0, plan->every, lattice->cells, stages->count});
}

const char* propagate_backward(const Lattice* lattice, const Backward* backward) {
  const long narrow = lattice->cells * lattice->batch * lattice->channels,
             wide = lattice->cells * lattice->batch * lattice->hidden;
  Job job = {
      .pass = {.lattice = lattice,
               .gradients = backward->gradients,
               .fires_gradient = backward->fires_gradient,
               .squares_gradient = backward->squares_gradient},
      .backward = backward,
  };
  Pass* pass = &job.pass;
  if (!make_plan(&pass->plan, lattice, 0)) return "there is no memory for the plan of the pass";
  pass->versions = lay_out(lattice, backward->versions, pass->plan.versions);
  pass->visible_gradient = backward->workspace;
  pass->memory_gradient = pass->visible_gradient + narrow;
  pass->perceived_gradient = pass->memory_gradient + narrow;
  pass->sent_gradient = pass->perceived_gradient + narrow;
  job.scratch = pass->sent_gradient + wide;
  if (!lattice->kept) {
    pass->sent = job.scratch;
    pass->messages = pass->sent + wide;
    pass->gates = pass->messages + wide;
    job.scratch += 3 * wide;
  }
  memset(pass->fires_gradient, 0, sizeof(float) * lattice->steps * lattice->cells * lattice->fires_batch);
  const char* problem = run(&job, arrange_backward);
  free_plan(&pass->plan);
  return problem;
}
