/* A plug-in that is good until a macro makes it bad. Compiled by bad_plugins.rs, as C or as C++.
 *
 *   WHERE, HOW      what goes wrong when the function named WHERE is called: SEGV, ABORT, THROW (C++), FAIL
 *   ALPHA           expression of t, default 1 - t;  SLOPE, WEIGHT the same;  RATIO expression of step;  MASK expression of i and j
 *   STATE           an instance remembers the first step that it was asked for, as `first`; a checkpoint keeps it
 *   GIVES           a transform gives its input, after this statement about `out`
 *   KIND            NOISE (default), ANNEALING, TRANSFORM, RECIPE, TORCH (against the libtorch LIBTORCH), or a string of its own with
 *                   KIND_TEXT */
#include <difflow_plugin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NOISE 1
#define ANNEALING 2
#define TRANSFORM 3
#define RECIPE 4
#define TORCH 5
#define SEGV 1
#define ABORT 2
#define THROW 3
#define FAIL 4

#ifndef KIND
#define KIND NOISE
#endif
#ifndef ALPHA
#define ALPHA 1 - t
#endif
#ifndef SLOPE
#define SLOPE -1
#endif
#ifndef RATIO
#define RATIO (step < 100 ? step / 100.0 : 1)
#endif
#ifndef MASK
#define MASK j <= i
#endif
#ifndef WHERE
#define WHERE ""
#define HOW 0
#endif
#ifndef MAJOR
#define MAJOR DIFFLOW_ABI_MAJOR
#endif
#ifndef MINOR
#define MINOR DIFFLOW_ABI_MINOR
#endif
#ifndef ID
#define ID "org.example.bad"
#endif
#define UNUSED(x) (void)(x)

struct difflow_instance {
  uint64_t first;
  char unused[56];
};

static difflow_status enter(const char *function) {
  if (strcmp(function, WHERE) != 0) return DIFFLOW_OK;
#if HOW == SEGV
  *(volatile int *)8 = 1;
#elif HOW == ABORT
  abort();
#elif HOW == THROW
  throw 7;
#endif
  return DIFFLOW_ERR_IO;
}

static difflow_status init(const difflow_host *host, const char *path, difflow_error *error) {
  UNUSED(host), UNUSED(path), UNUSED(error);
  return enter("init");
}

static void deinit(void) { enter("deinit"); }

static difflow_status create(const char *id, difflow_str config, difflow_instance **out, difflow_error *error) {
  UNUSED(id);
  difflow_status status = enter("create");
  if (status != DIFFLOW_OK) return status;
#ifndef TAKES_ANY_CONFIG
  if (config.len != 2) {
    error->code = DIFFLOW_ERR_INVALID_CONFIG;
    return DIFFLOW_ERR_INVALID_CONFIG;
  }
#else
  UNUSED(config), UNUSED(error);
#endif
  *out = (difflow_instance *)malloc(sizeof **out);
  (*out)->first = UINT64_MAX;
  return DIFFLOW_OK;
}

static void destroy(difflow_instance *instance) {
  enter("destroy");
#ifndef LEAKS
  free(instance);
#else
  UNUSED(instance);
#endif
}

#if KIND == NOISE
#define KIND_ID DIFFLOW_NOISE_SCHEDULE_V1
static difflow_status alpha(const difflow_instance *s, const double *ts, size_t n, double *out, difflow_error *error) {
  UNUSED(s), UNUSED(error);
  for (size_t i = 0; i < n; i++) { double t = ts[i]; UNUSED(t); out[i] = ALPHA; }
  return enter("alpha");
}
static difflow_status alpha_derivative(const difflow_instance *s, const double *ts, size_t n, double *out, difflow_error *error) {
  UNUSED(s), UNUSED(error);
  for (size_t i = 0; i < n; i++) { double t = ts[i]; UNUSED(t); out[i] = SLOPE; }
  return enter("alpha_derivative");
}
#ifdef WEIGHT
static difflow_status weight(const difflow_instance *s, const double *ts, size_t n, double *out, difflow_error *error) {
  UNUSED(s), UNUSED(error);
  for (size_t i = 0; i < n; i++) { double t = ts[i]; out[i] = WEIGHT; }
  return enter("weight");
}
#else
#define weight NULL
#endif
#if defined(SHORT)
/* As a plug-in of a version before `weight` would be. */
static const struct { uint32_t struct_size; difflow_status (*a)(const difflow_instance *, const double *, size_t, double *, difflow_error *), (*d)(const difflow_instance *, const double *, size_t, double *, difflow_error *); }
    table = {sizeof table, alpha, alpha_derivative};
#elif defined(LONG)
/* As one of a later version would be. */
static const struct { difflow_noise_schedule_v1 known; void *later[4]; } table = {{sizeof table, alpha, alpha_derivative, NULL}, {(void *)1}};
#elif defined(NO_ALPHA)
static const difflow_noise_schedule_v1 table = {sizeof table, NULL, alpha_derivative, NULL};
#else
static const difflow_noise_schedule_v1 table = {sizeof table, alpha, alpha_derivative, weight};
#endif

#elif KIND == ANNEALING
#define KIND_ID DIFFLOW_ANNEALING_SCHEDULE_V1
static difflow_status attn_mask_ratio(const difflow_instance *s, uint64_t step, double *out, difflow_error *error) {
  UNUSED(error), UNUSED(step);
#ifdef STATE
  difflow_instance *mine = (difflow_instance *)s;
  if (mine->first == UINT64_MAX) mine->first = step;
  uint64_t first = mine->first;
  UNUSED(first);
#else
  UNUSED(s);
#endif
  *out = RATIO;
  return enter("attn_mask_ratio");
}
static difflow_status attn_mask(const difflow_instance *s, uint64_t step, uint64_t seed, uint32_t n, uint8_t *out, difflow_error *error) {
  UNUSED(s), UNUSED(step), UNUSED(seed), UNUSED(error);
  for (uint32_t i = 0; i < n; i++) for (uint32_t j = 0; j < n; j++) out[(size_t)i * n + j] = MASK;
  return enter("attn_mask");
}
static const difflow_annealing_schedule_v1 table = {sizeof table, attn_mask_ratio, attn_mask};

#elif KIND == TRANSFORM
#define KIND_ID DIFFLOW_BATCH_TRANSFORM_V1
static void forget_schema(struct ArrowSchema *schema) { schema->release = NULL; }
static difflow_status output_schema(const difflow_instance *s, const struct ArrowSchema *in, struct ArrowSchema *out, difflow_error *error) {
  UNUSED(s), UNUSED(error);
  *out = *in; /* borrowed from the input, which outlives this one */
  out->release = forget_schema;
#ifdef CHANGES_SCHEMA
  out->n_children -= 1;
#endif
  return enter("output_schema");
}
static void give_back(struct ArrowArray *array) {
  array->release = NULL;
  enter("release");
}
static difflow_status process(difflow_instance *s, uint64_t seq, uint64_t seed, struct ArrowArray *in, struct ArrowArray *out, difflow_error *error) {
  UNUSED(s), UNUSED(seq), UNUSED(seed), UNUSED(out), UNUSED(error);
  void (*release)(struct ArrowArray *) = in->release;
#ifdef GIVES
  *out = *in; /* borrowed from the input, which is gone after this call */
  out->release = give_back;
  GIVES;
#endif
  for (int i = 0; i < RELEASES; i++) release(in);
  difflow_status status = enter("process");
  return status;
}
static const difflow_batch_transform_v1 table = {sizeof table, output_schema, process};

#elif KIND == RECIPE
#define KIND_ID DIFFLOW_MODEL_RECIPE_V1
static difflow_status recipe(const difflow_instance *s, difflow_str *out, difflow_error *error) {
  UNUSED(s), UNUSED(error);
  out->ptr = TEXT;
  out->len = strlen(TEXT);
  return enter("recipe");
}
static const difflow_model_recipe_v1 table = {sizeof table, recipe};

#elif KIND == TORCH
#define KIND_ID DIFFLOW_TORCH_MODEL_V1
#ifndef LIBTORCH
#define LIBTORCH "0.0.0"
#endif
static const difflow_torch_build build = {sizeof build, LIBTORCH, 1};
static const difflow_torch_build *built_against(void) {
  enter("built_against");
  return &build;
}
static difflow_status load(difflow_instance *s, difflow_str dir, difflow_str device, difflow_str dtype, uint64_t seed, difflow_error *error) {
  UNUSED(s), UNUSED(dir), UNUSED(device), UNUSED(dtype), UNUSED(seed), UNUSED(error);
  return enter("load");
}
static difflow_status parameters(difflow_instance *s, difflow_parameter_visitor visit, void *ctx, difflow_error *error) {
  UNUSED(s), UNUSED(visit), UNUSED(ctx), UNUSED(error);
  return enter("parameters");
}
static difflow_status forward(difflow_instance *s, const difflow_tensor *ids, const difflow_tensor *bias, int32_t train, difflow_tensor **out, difflow_error *error) {
  UNUSED(s), UNUSED(ids), UNUSED(bias), UNUSED(train), UNUSED(out), UNUSED(error);
  return enter("forward");
}
static difflow_status save(difflow_instance *s, difflow_str dir, difflow_error *error) {
  UNUSED(s), UNUSED(dir), UNUSED(error);
  return enter("save");
}
static const difflow_torch_model_v1 table = {sizeof table, built_against, load, parameters, forward, save, NULL};
#endif

#ifdef STATE
static difflow_status save_state(const difflow_instance *s, void *ctx, difflow_status (*write)(void *, const void *, size_t), difflow_error *error) {
  UNUSED(error);
  difflow_status status = enter("save");
  return status == DIFFLOW_OK ? write(ctx, &s->first, sizeof s->first) : status;
}
static difflow_status load_state(difflow_instance *s, const void *bytes, size_t n, difflow_error *error) {
  UNUSED(error);
  if (n != sizeof s->first) return DIFFLOW_ERR_INVALID_ARGUMENT;
  memcpy(&s->first, bytes, n);
  return enter("load");
}
static const difflow_state_v1 state = {sizeof state, save_state, load_state};
#endif

#ifdef KIND_TEXT
#undef KIND_ID
#define KIND_ID KIND_TEXT
#endif

static const void *get_extension(const char *id, const char *extension) {
  UNUSED(id);
  enter("get_extension");
#ifdef STATE
  if (strcmp(extension, DIFFLOW_STATE_V1) == 0) return &state;
#endif
  return strcmp(extension, KIND_ID) == 0 ? (const void *)&table : NULL;
}

static const difflow_component component = {
    sizeof component, ID, KIND_ID, "Bad", "1.0.0", "difflow", "Apache-2.0", "A plug-in for tests",
#ifdef BAD_SCHEMA
    "{not JSON"
#else
    "{}"
#endif
};

static const difflow_component *const components[] = {
    &component,
#ifdef TWICE
    &component,
#endif
    NULL};

#ifdef NO_CREATE
#define CREATE NULL
#else
#define CREATE create
#endif

#ifdef __cplusplus
extern "C" {
#endif
#ifdef LONG
extern DIFFLOW_EXPORT const struct entry_of_later { difflow_plugin_entry known; void *later[4]; } later_entry __asm__("difflow_plugin_entry_v1");
const struct entry_of_later later_entry = {
    {sizeof later_entry, MAJOR, MINOR, init, deinit, components, CREATE, destroy, get_extension}, {(void *)1}};
#else
DIFFLOW_EXPORT const difflow_plugin_entry difflow_plugin_entry_v1 = {
    sizeof difflow_plugin_entry_v1, MAJOR, MINOR, init, deinit, components, CREATE, destroy, get_extension};
#endif
#ifdef __cplusplus
}
#endif
