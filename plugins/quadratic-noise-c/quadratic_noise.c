/* A noise schedule as a plug-in in C: alpha = 1 - t^2, or 1 - (1 - t)^2 mirrored when "early" is true.
 *
 * It reads its one option without a JSON library, as far as that goes; a larger plug-in would bring one. */
#include <difflow_plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID "org.difflow.examples.quadratic-noise"

struct difflow_instance {
  int early; /* 0: alpha = 1 - t^2, 1: alpha = (1 - t)^2 */
};

static void release_error(difflow_error *error) {
  free(error->message);
  free(error->path);
  error->message = error->path = NULL;
  error->release = NULL;
}

static char *copy(const char *text) {
  char *mine = malloc(strlen(text) + 1);
  return mine ? strcpy(mine, text) : NULL;
}

static difflow_status fail(difflow_error *error, difflow_status code, const char *path, const char *message) {
  if (error && error->struct_size >= sizeof *error) {
    error->code = code;
    error->message = copy(message);
    error->path = path ? copy(path) : NULL;
    error->release = release_error;
  }
  return code;
}

/* ---- Configuration: {} or {"early": true|false} -------------------------------------------------------------------------- */

struct reader {
  const char *at, *end;
};

static void skip_space(struct reader *r) {
  while (r->at < r->end && strchr(" \t\r\n", *r->at)) r->at++;
}

/* Whether `word` comes next; goes past it. */
static int take(struct reader *r, const char *word) {
  size_t n = strlen(word);
  skip_space(r);
  if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return 0;
  r->at += n;
  return 1;
}

static difflow_status configure(difflow_str text, int *early, difflow_error *error) {
  struct reader r = {text.ptr, text.ptr + text.len};
  const char *key;
  char path[64];
  if (!take(&r, "{")) return fail(error, DIFFLOW_ERR_INVALID_CONFIG, "", "wanted a JSON object, {} for the defaults");
  if (take(&r, "\"early\"")) {
    if (!take(&r, ":")) return fail(error, DIFFLOW_ERR_INVALID_CONFIG, "", "not JSON: no colon after a key");
    if (take(&r, "true")) *early = 1;
    else if (take(&r, "false")) *early = 0;
    else return fail(error, DIFFLOW_ERR_INVALID_CONFIG, "/early", "wanted true or false");
  }
  if (take(&r, "}")) {
    skip_space(&r);
    if (r.at == r.end) return DIFFLOW_OK;
  }
  if (take(&r, "\"")) {
    for (key = r.at; r.at < r.end && *r.at != '"'; r.at++) {}
    snprintf(path, sizeof path, "/%.*s", (int)(r.at - key), key);
    return fail(error, DIFFLOW_ERR_INVALID_CONFIG, path, "unknown option; known: early");
  }
  return fail(error, DIFFLOW_ERR_INVALID_CONFIG, "", "not the JSON of {} or {\"early\": true}");
}

/* ---- Instances ----------------------------------------------------------------------------------------------------------- */

static difflow_status create(const char *id, difflow_str config, difflow_instance **out, difflow_error *error) {
  difflow_instance made = {0};
  difflow_status status;
  if (strcmp(id, ID) != 0) return fail(error, DIFFLOW_ERR_INVALID_ARGUMENT, NULL, "no such component here");
  status = configure(config, &made.early, error);
  if (status != DIFFLOW_OK) return status;
  *out = malloc(sizeof made);
  if (!*out) return fail(error, DIFFLOW_ERR_IO, NULL, "out of memory");
  **out = made;
  return DIFFLOW_OK;
}

static void destroy(difflow_instance *instance) { free(instance); }

/* ---- The schedule -------------------------------------------------------------------------------------------------------- */

static difflow_status alpha(const difflow_instance *s, const double *t, size_t n, double *out, difflow_error *error) {
  (void)error;
  for (size_t i = 0; i < n; i++) out[i] = s->early ? (1 - t[i]) * (1 - t[i]) : 1 - t[i] * t[i];
  return DIFFLOW_OK;
}

static difflow_status alpha_derivative(const difflow_instance *s, const double *t, size_t n, double *out,
                                       difflow_error *error) {
  (void)error;
  for (size_t i = 0; i < n; i++) out[i] = s->early ? -2 * (1 - t[i]) : -2 * t[i];
  return DIFFLOW_OK;
}

/* ---- Tables -------------------------------------------------------------------------------------------------------------- */

static const difflow_noise_schedule_v1 schedule = {
    .struct_size = sizeof schedule, .alpha = alpha, .alpha_derivative = alpha_derivative, .weight = NULL /* the host's */
};

static const void *get_extension(const char *id, const char *extension) {
  return strcmp(id, ID) == 0 && strcmp(extension, DIFFLOW_NOISE_SCHEDULE_V1) == 0 ? &schedule : NULL;
}

static const difflow_component component = {
    .struct_size = sizeof component,
    .id = ID,
    .kind = DIFFLOW_NOISE_SCHEDULE_V1,
    .name = "Quadratic",
    .version = "1.0.0",
    .vendor = "difflow",
    .license = "Apache-2.0",
    .description = "alpha = 1 - t^2, or (1 - t)^2 when early",
    .config_schema = "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"early\":{\"type\":\"boolean\","
                     "\"default\":false,\"description\":\"Mask early: alpha = (1 - t)^2.\"}}}",
};

static const difflow_component *const components[] = {&component, NULL};

DIFFLOW_EXPORT const difflow_plugin_entry difflow_plugin_entry_v1 = {
    .struct_size = sizeof difflow_plugin_entry_v1,
    .abi_major = DIFFLOW_ABI_MAJOR,
    .abi_minor = DIFFLOW_ABI_MINOR,
    .components = components,
    .create = create,
    .destroy = destroy,
    .get_extension = get_extension,
};
