/* The C interface of hp_sdk, for other languages.
 *
 *     hp_parser* parser = NULL;
 *     hp_result* result = NULL;
 *     hp_image photo = {pixels, 480, 640, HP_RGB, 0};
 *     if (hp_parser_load("path/to/bundle", NULL, &parser) != HP_OK ||
 *         hp_parser_parse(parser, &photo, NULL, 0, &result) != HP_OK) {
 *         fprintf(stderr, "%s\n", hp_last_error());
 *     } else {
 *         const uint8_t* labels = hp_result_labels(result);       (height * width ids, row by row)
 *     }
 *     hp_result_free(result);
 *     hp_parser_free(parser);
 *
 * Every function that can fail returns a status; hp_last_error() then says what was given, what is
 * allowed and what to do.  That text belongs to the calling thread and stays until its next failing call.
 *
 * Threads: any thread may call hp_parser_parse and the questions about a parser at any time; it must not
 * be freed meanwhile.  A result belongs to one thread at a time.
 *
 * Memory: what hp_parser_load and hp_parser_parse give is freed by hp_..._free (NULL is fine).  Every
 * pointer that a question answers with belongs to the object asked and lives as long as it.
 */
#ifndef HP_C_H
#define HP_C_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

#define HP_C_API __attribute__((visibility("default")))

/* Also the exit codes of the commands. */
typedef enum hp_status {
    HP_OK = 0,
    HP_UNEXPECTED = 1,
    HP_CONFIG_ERROR = 2,  /* an option is not allowed */
    HP_INPUT_ERROR = 3,   /* no usable picture or name */
    HP_MODEL_ERROR = 4,   /* model missing or damaged */
    HP_BACKEND_ERROR = 5, /* runtime or hardware not there, or failed */
    HP_VERIFICATION_ERROR = 6
} hp_status;

typedef enum hp_format { HP_RGB = 0, HP_BGR, HP_RGBA, HP_BGRA, HP_GREY } hp_format;

typedef struct hp_parser hp_parser;
typedef struct hp_result hp_result;

/* A photo that belongs to the caller; row_bytes 0 stands for rows without gaps. */
typedef struct hp_image {
    const uint8_t* data;
    int height;
    int width;
    hp_format format;
    ptrdiff_t row_bytes;
} hp_image;

/* How to open a model; zeros and NULL stand for the defaults, which hp/parser.hpp explains. */
typedef struct hp_options {
    const char* backend;
    const char* device;
    const char* precision;
    const char* head;
    const char* tta;
    int batch_size;
    int num_threads;
    int allow_fallback;
    const char* onnxruntime;
    const char* bundles;
} hp_options;

/* One sentence about the calling thread's last failure; "" where there was none. */
HP_C_API const char* hp_last_error(void);
/* Its class, such as "ChecksumMismatch"; "" where there was none. */
HP_C_API const char* hp_last_error_kind(void);
HP_C_API const char* hp_version(void);

/* options may be NULL. */
HP_C_API hp_status hp_parser_load(const char* model, const hp_options* options, hp_parser** parser);
HP_C_API void hp_parser_free(hp_parser* parser);

/* tta NULL: as loaded; wants_confidence 0 or 1. */
HP_C_API hp_status hp_parser_parse(const hp_parser* parser, const hp_image* image, const char* tta,
                                   int wants_confidence, hp_result** result);
/* count photos in batches; results has room for count pointers, all NULL after a failure. */
HP_C_API hp_status hp_parser_parse_batch(const hp_parser* parser, const hp_image* images, size_t count,
                                         const char* tta, int wants_confidence, hp_result** results);
/* Several label domains of one photo from one pass of the network; results has room for count pointers. */
HP_C_API hp_status hp_parser_parse_heads(const hp_parser* parser, const hp_image* image,
                                         const char* const* heads, size_t count, const char* tta,
                                         int wants_confidence, hp_result** results);
/* Replay the golden sample; worst (may be NULL) is the agreement of the head that agrees least. */
HP_C_API hp_status hp_parser_selftest(const hp_parser* parser, double* worst);

HP_C_API void hp_result_free(hp_result* result);

/* What the labels mean: number of parts, their names, their RGB colours (NULL for an id that is not there).
 */
HP_C_API int hp_result_num_classes(const hp_result* result);
HP_C_API const char* hp_result_class_name(const hp_result* result, int id);
HP_C_API const uint8_t* hp_result_class_colour(const hp_result* result, int id);
/* What ran, such as "onnxruntime 1.24.0". */
HP_C_API const char* hp_result_backend(const hp_result* result);

HP_C_API int hp_result_height(const hp_result* result);
HP_C_API int hp_result_width(const hp_result* result);
HP_C_API const uint8_t* hp_result_labels(const hp_result* result);
/* NULL unless it was wanted. */
HP_C_API const uint8_t* hp_result_confidence(const hp_result* result);
/* Pixels of one part. */
HP_C_API int64_t hp_result_area(const hp_result* result, int id);
/* mask has room for height * width bytes and becomes 1 where the part or group is, else 0. */
HP_C_API hp_status hp_result_mask(const hp_result* result, const char* part_or_group, uint8_t* mask);

#if defined(__cplusplus)
}
#endif

#endif /* HP_C_H */
