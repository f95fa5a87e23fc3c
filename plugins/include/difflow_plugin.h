/* difflow_plugin.h - the stable C ABI of difflow plug-ins, version 1.0. This file is normative.
 *
 * A plug-in is a shared library that exports one symbol, `difflow_plugin_entry_v1`: a constant table. difflow reads the
 * table, creates instances of the components listed there, asks for the function table of a component's kind and calls it.
 *
 * The smallest plug-in in C is plugins/quadratic-noise-c/quadratic_noise.c; docs/PLUGINS.md walks through it.
 *
 * RULES
 *  R1. Every struct begins with `struct_size`, the size that its writer knew. Fields are only ever appended. A reader touches no
 *      field that does not lie wholly inside `struct_size`, and treats an absent one as NULL or 0.
 *  R2. A breaking change gets a new extension id ("difflow.noise-schedule/2") or, for this file itself, a new entry symbol.
 *  R3. Strings are UTF-8. They are borrowed unless the comment says "owned". `const char *` ends in a NUL; a difflow_str need not.
 *  R4. No function may unwind, throw, longjmp or exit across this boundary. An instance that met such an accident inside must
 *      answer DIFFLOW_ERR_PANIC, and DIFFLOW_ERR_INVALID_STATE ever after.
 *  R5. Thread tags, one on every function:
 *        [main]  called from one thread at a time; calls for different instances are not concurrent either.
 *        [any]   may be called from any thread, concurrently, also on the same instance.
 *        [pure]  the same arguments give the same results, whatever was called before.
 *  R6. State: `init` comes first, once; then any number of create ... destroy; `deinit` last, once, with no instance alive. A
 *      function that takes an instance is called between its `create` and its `destroy`.
 *  R7. A library is never unloaded, so static data and code stay valid until the process ends.
 *  R8. A function that answers anything but DIFFLOW_OK has written nothing through its `out` pointers that must be freed.
 */
#ifndef DIFFLOW_PLUGIN_H
#define DIFFLOW_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef _WIN32
#define DIFFLOW_EXPORT __declspec(dllexport)
#else
#define DIFFLOW_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Written into difflow_plugin_entry by the plug-in and into difflow_host by the host. Another major is refused; any minor works. */
#define DIFFLOW_ABI_MAJOR 1u
#define DIFFLOW_ABI_MINOR 0u

/* The Arrow C Data Interface, as in https://arrow.apache.org/docs/format/CDataInterface.html */
#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE
struct ArrowSchema {
  const char *format;
  const char *name;
  const char *metadata;
  int64_t flags;
  int64_t n_children;
  struct ArrowSchema **children;
  struct ArrowSchema *dictionary;
  void (*release)(struct ArrowSchema *);
  void *private_data;
};
struct ArrowArray {
  int64_t length;
  int64_t null_count;
  int64_t offset;
  int64_t n_buffers;
  int64_t n_children;
  const void **buffers;
  struct ArrowArray **children;
  struct ArrowArray *dictionary;
  void (*release)(struct ArrowArray *);
  void *private_data;
};
#endif

/* ---- Status and errors -------------------------------------------------------------------------------------------------- */

typedef int32_t difflow_status;
#define DIFFLOW_OK 0
#define DIFFLOW_ERR_INVALID_ARGUMENT 1
#define DIFFLOW_ERR_INVALID_CONFIG 2  /* error.path is a JSON Pointer (RFC 6901) into the configuration */
#define DIFFLOW_ERR_NOT_IMPLEMENTED 3
#define DIFFLOW_ERR_INVALID_STATE 4   /* called out of order, or the instance was poisoned by an earlier panic */
#define DIFFLOW_ERR_IO 5
#define DIFFLOW_ERR_INCOMPATIBLE 6    /* ABI, Arrow schema or libtorch do not fit */
#define DIFFLOW_ERR_PANIC 7           /* something was thrown inside and caught at the boundary */

typedef struct difflow_str {
  const char *ptr;
  size_t len; /* bytes */
} difflow_str;

/* The caller zeroes it and sets struct_size. The callee fills it when it answers something other than DIFFLOW_OK, and may leave it
 * as it is. The caller calls `release` once if it is not NULL; it frees message and path. Every `difflow_error *` may be NULL. */
typedef struct difflow_error {
  uint32_t struct_size;
  int32_t code;  /* the status again */
  char *message; /* owned; says what was found, what is allowed, what to do */
  char *path;    /* owned; may be NULL */
  void (*release)(struct difflow_error *);
  void *private_data;
} difflow_error;

/* ---- Host --------------------------------------------------------------------------------------------------------------- */

/* What the host offers. Valid from `init` until after `deinit`. */
typedef struct difflow_host {
  uint32_t struct_size;
  uint32_t abi_major, abi_minor;
  void *host_data;
  const char *name, *version;
  /* Writes a line into the log of the node. level: 1 error, 2 warning, 3 info, 4 debug, 5 trace. [any] */
  void (*log)(const struct difflow_host *host, int32_t level, difflow_str target, difflow_str message);
  /* A host extension by id, or NULL. None is defined in 1.0; the field itself may be NULL. [any] */
  const void *(*get_extension)(const struct difflow_host *host, const char *id);
} difflow_host;

/* ---- Components --------------------------------------------------------------------------------------------------------- */

/* What a library offers: one descriptor per component. All strings are static. */
typedef struct difflow_component {
  uint32_t struct_size;
  const char *id;   /* mandatory: "org.example.cosine-noise"; letters, digits, '.', '-', '_'; the same in every version */
  const char *kind; /* mandatory: one of the DIFFLOW_..._V1 kinds below */
  const char *name, *version, *vendor, *license, *description;
  const char *config_schema; /* JSON Schema 2020-12 of the configuration object; NULL or "{}" when there are no options */
} difflow_component;

/* One component at work; the plug-in owns what is behind the pointer. */
typedef struct difflow_instance difflow_instance;

typedef struct difflow_plugin_entry {
  uint32_t struct_size;
  uint32_t abi_major, abi_minor;
  /* Called once before everything else. `library_path` is absolute. May be NULL. [main] */
  difflow_status (*init)(const difflow_host *host, const char *library_path, difflow_error *error);
  /* Called at most once, when no instance is alive. May be NULL. [main] */
  void (*deinit)(void);
  /* NULL-terminated, immutable. */
  const difflow_component *const *components;
  /* Makes an instance. `config_json` is the text of the dataflow's ..._CONFIG key, "{}" when it is not set. A wrong one answers
   * DIFFLOW_ERR_INVALID_CONFIG with error.path. [main] */
  difflow_status (*create)(const char *component_id, difflow_str config_json, difflow_instance **out, difflow_error *error);
  /* Frees an instance; called once for each. [main] */
  void (*destroy)(difflow_instance *instance);
  /* The function table of `extension_id` for a component: for its own kind always, for "difflow.state/1" if it has state; NULL
   * for others. The table is static. [any] [pure] */
  const void *(*get_extension)(const char *component_id, const char *extension_id);
} difflow_plugin_entry;

/* The one symbol that the host looks up. It is data, so looking at a library calls nothing in it. */
extern DIFFLOW_EXPORT const difflow_plugin_entry difflow_plugin_entry_v1;

/* ---- Kind: noise schedule ----------------------------------------------------------------------------------------------- */

#define DIFFLOW_NOISE_SCHEDULE_V1 "difflow.noise-schedule/1"
typedef struct difflow_noise_schedule_v1 {
  uint32_t struct_size;
  /* out[i] = P(token still clean) at time t[i], t in [0, 1]. alpha(0) = 1, never rises, in [0, 1]. n may be 0. [any] [pure] */
  difflow_status (*alpha)(const difflow_instance *instance, const double *t, size_t n, double *out, difflow_error *error);
  /* out[i] = d alpha / d t, never positive. [any] [pure] */
  difflow_status (*alpha_derivative)(const difflow_instance *instance, const double *t, size_t n, double *out,
                                     difflow_error *error);
  /* out[i] = loss weight w(t), finite and not negative for t in (0, 1]. NULL: the host uses -alpha'(t) / (1 - alpha(t)).
   * [any] [pure] */
  difflow_status (*weight)(const difflow_instance *instance, const double *t, size_t n, double *out, difflow_error *error);
} difflow_noise_schedule_v1;

/* ---- Kind: annealing schedule ------------------------------------------------------------------------------------------- */

#define DIFFLOW_ANNEALING_SCHEDULE_V1 "difflow.annealing-schedule/1"
typedef struct difflow_annealing_schedule_v1 {
  uint32_t struct_size;
  /* How far attention has gone from causal (0) to full (1) at an optimizer step, counted from 0. Reaches 1 and stays there.
   * [any] [pure] */
  difflow_status (*attn_mask_ratio)(const difflow_instance *instance, uint64_t step, double *out, difflow_error *error);
  /* The whole attention pattern of a forward pass: out[i * seq_len + j] = 1 where position i attends to j, else 0; every j <= i
   * must be 1. Asked only while 0 < ratio < 1; `seed` differs from forward to forward. NULL: the host opens every j > i with
   * probability ratio. [any] [pure] */
  difflow_status (*attn_mask)(const difflow_instance *instance, uint64_t step, uint64_t seed, uint32_t seq_len, uint8_t *out,
                              difflow_error *error);
} difflow_annealing_schedule_v1;

/* ---- Kind: batch transform ---------------------------------------------------------------------------------------------- */

/* A batch is one struct array, as on difflow's edges: docs/ARCHITECTURE.md. A transform may change values and the number of rows,
 * not the schema. It is a pure function of (seq, seed, batch): a batch may be asked for twice. */
#define DIFFLOW_BATCH_TRANSFORM_V1 "difflow.batch-transform/1"
typedef struct difflow_batch_transform_v1 {
  uint32_t struct_size;
  /* The schema of what `process` gives for batches of schema `in` (borrowed); DIFFLOW_ERR_INCOMPATIBLE when it cannot work on
   * them. The caller releases `out`. [main] [pure] */
  difflow_status (*output_schema)(const difflow_instance *instance, const struct ArrowSchema *in, struct ArrowSchema *out,
                                  difflow_error *error);
  /* `seq` numbers the batch from 0, `seed` is the run's. `in` is moved: the plug-in calls in->release exactly once, also when it
   * fails. The caller releases `out`, which may not share memory with `in` after in->release. [main] [pure] */
  difflow_status (*process)(difflow_instance *instance, uint64_t seq, uint64_t seed, struct ArrowArray *in,
                            struct ArrowArray *out, difflow_error *error);
} difflow_batch_transform_v1;

/* ---- Kind: model recipe ------------------------------------------------------------------------------------------------- */

/* Tells difflow how to read a base model that it does not know by name, as data. */
#define DIFFLOW_MODEL_RECIPE_V1 "difflow.model-recipe/1"
typedef struct difflow_model_recipe_v1 {
  uint32_t struct_size;
  /* A JSON object; docs/PLUGINS.md has its keys. *out_json is borrowed and valid until `destroy`. [main] [pure] */
  difflow_status (*recipe)(const difflow_instance *instance, difflow_str *out_json, difflow_error *error);
} difflow_model_recipe_v1;

/* ---- Kind: torch model -------------------------------------------------------------------------------------------------- */

/* A base model with a forward pass of its own, in libtorch. Tensors cross as the addresses of at::Tensor objects, so the library must be
 * built against the very libtorch that difflow has; this is compared before a tensor crosses. The plug-in owns the modules, the host
 * the optimizer: it writes the parameters in place. */
#define DIFFLOW_TORCH_MODEL_V1 "difflow.torch-model/1"
typedef struct difflow_tensor difflow_tensor; /* an at::Tensor */
typedef struct difflow_torch_build {
  uint32_t struct_size;
  const char *libtorch_version; /* TORCH_VERSION of the headers that it was compiled with, "2.11.0" for example; compared exactly */
  int32_t cxx11_abi;            /* _GLIBCXX_USE_CXX11_ABI, 0 or 1; compared exactly */
} difflow_torch_build;
/* Takes a parameter during `parameters`; the name is borrowed. */
typedef difflow_status (*difflow_parameter_visitor)(void *ctx, difflow_str name, const difflow_tensor *parameter,
                                                    int32_t trainable);
typedef struct difflow_torch_model_v1 {
  uint32_t struct_size;
  /* Asked before `create`; static. [any] [pure] */
  const difflow_torch_build *(*built_against)(void);
  /* Called once, right after `create`. `weights_dir` holds a config.json and the weights, those of a base model or what `save` wrote;
   * when it is empty, the model is a small one of the size that the options say, with random weights from `seed`. `device`: "cpu",
   * "cuda:0". `dtype`: "f32" or "bf16", for matrix products and attention; parameters are fp32 either way. [main] */
  difflow_status (*load)(difflow_instance *instance, difflow_str weights_dir, difflow_str device, difflow_str dtype, uint64_t seed,
                         difflow_error *error);
  /* Shows every parameter once, always in the same order and under the same name: fp32, contiguous, of one dimension at least, on the
   * device of `load`. Handles are borrowed; the host keeps tensors that share their storage until `set_vocab_size` or `destroy`. Gives up
   * with the visitor's status when it is not DIFFLOW_OK. [main] */
  difflow_status (*parameters)(difflow_instance *instance, difflow_parameter_visitor visit, void *ctx, difflow_error *error);
  /* input_ids: i64 [B, L]. attn_bias: [1 or B, 1, L, L] in the dtype of `load`, 0 where position i (row) sees position j, else
   * -infinity; it goes into every attention as it is. *out: logits [B, L, V], owned by the host, part of the autograd graph where
   * gradients are on; logits of position i are those for the token at i + 1. `train` is 0 or 1, for dropout and the like. [main] */
  difflow_status (*forward)(difflow_instance *instance, const difflow_tensor *input_ids, const difflow_tensor *attn_bias,
                            int32_t train, difflow_tensor **out, difflow_error *error);
  /* Writes config.json and the weights into `dir`, an existing folder. The host adds its own keys to config.json, and the tokenizer's
   * files. [main] */
  difflow_status (*save)(difflow_instance *instance, difflow_str dir, difflow_error *error);
  /* Makes the vocabulary larger: every parameter with a row for each token gets new rows at its end, which the host fills. Needed for
   * the mask token; NULL: only a token of the vocabulary can be the mask token. [main] */
  difflow_status (*set_vocab_size)(difflow_instance *instance, uint64_t size, difflow_error *error);
} difflow_torch_model_v1;

/* ---- On any kind: state that a checkpoint keeps ------------------------------------------------------------------------- */

#define DIFFLOW_STATE_V1 "difflow.state/1"
typedef struct difflow_state_v1 {
  uint32_t struct_size;
  /* Hands the state to `write`, in any number of pieces; gives up with its status when it is not DIFFLOW_OK. [main] */
  difflow_status (*save)(const difflow_instance *instance, void *ctx,
                         difflow_status (*write)(void *ctx, const void *bytes, size_t n), difflow_error *error);
  /* Takes back what `save` wrote, right after `create` with the same configuration. [main] */
  difflow_status (*load)(difflow_instance *instance, const void *bytes, size_t n, difflow_error *error);
} difflow_state_v1;

#ifdef __cplusplus
}
#endif
#endif /* DIFFLOW_PLUGIN_H */
