/* The C interface from C: the areas of one grey photo.  c_example BUNDLE */
#include <stdio.h>

#include "hp_c.h"

static uint8_t pixels[120 * 90 * 3];

int main(int count, char** words) {
    hp_parser* parser = NULL;
    hp_result* result = NULL;
    const hp_image photo = {pixels, 120, 90, HP_RGB, 0};
    const hp_options options = {.num_threads = 1, .tta = "flip"};
    hp_status status = hp_parser_load(count > 1 ? words[1] : NULL, &options, &parser);
    if (status == HP_OK) {
        status = hp_parser_parse(parser, &photo, NULL, 1, &result);
    }
    if (status == HP_OK) {
        printf("%d x %d, %d classes, background %lld px, %s\n", hp_result_height(result),
               hp_result_width(result), hp_result_num_classes(result), (long long)hp_result_area(result, 0),
               hp_result_class_name(result, 0));
    } else {
        fprintf(stderr, "%s: %s\n", hp_last_error_kind(), hp_last_error());
    }
    hp_result_free(result);
    hp_parser_free(parser);
    return (int)status;
}
