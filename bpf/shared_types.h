/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The types user space needs by name, in every object. Never used: clang leaves
 * out of BTF what only inner maps, pointers or constants mention.
 */
#ifndef PERIMETERD_SHARED_TYPES_H
#define PERIMETERD_SHARED_TYPES_H

#include <stddef.h>

#include "settings.h"
#include "types.h"

struct shared_types {
	struct address address;
	struct prefix_key4 prefix_key4;
	struct prefix_key6 prefix_key6;
	struct prefix_index prefix_index;
	struct marks_shape marks_shape;
	struct family_index family_index;
	struct length_node length_node;
	struct length_block length_block;
	enum length_bound length_bound;
	enum length_entry length_entry;
	struct run_block run_block;
	enum run_word run_word;
	enum run_leaf run_leaf;
	struct local local;
	struct member member;
	struct span span;
	struct span_list span_list;
	struct scope_class scope_class;
	struct outcome outcome;
	struct denial_key denial_key;
	struct crowd_key crowd_key;
	struct crowd crowd;
	struct denial denial;
	struct event event;
	struct name_key name_key;
	struct name_rule name_rule;
	struct learnt_key learnt_key;
	struct learnt learnt;
	struct learnt_slot learnt_slot;
	struct learnt_set learnt_set;
	struct named_event named_event;
	struct name_answer name_answer;
	enum name_event name_event;
	enum learnt_by learnt_by;
	enum outcome_names outcome_names;
	enum reason reason;
	enum category category;
	enum verdict verdict;
	enum direction direction;
	enum event_kind event_kind;
	enum control_flag control_flag;
	enum local_flag local_flag;
	enum interface_flag interface_flag;
	enum flow_state flow_state;
	enum flow_flag flow_flag;
	enum timeout_row timeout_row;
};
const struct shared_types *const shared_types = NULL;

#endif
