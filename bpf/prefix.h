/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From an address to the class of the longest prefix around it. The tries
 * prefixes4 and prefixes6 can tell it for any set of prefixes; what stands before
 * them is made of the same prefixes and faster:
 *
 *   changes where the policy differs from the one that all the others were made
 *           for: what stands here counts, and few changes of many prefixes need
 *           no new tables
 *   marks   a bit that is 0 says that no prefix holds the address
 *   runs    all of IPv4, for many prefixes of all lengths: the trie is empty
 *   lengths all in a hash by their lengths, few of which are asked: the trie is empty
 *
 * See README.md for when the agent picks which.
 */
#ifndef PERIMETERD_PREFIX_H
#define PERIMETERD_PREFIX_H

#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "types.h"

/*
 * A hash of the first `bits` of an address, of which the upper bits are the best.
 * Of an IPv4 address three words are 0. User space does the same (prefixHash).
 */
static __always_inline __u32 prefix_hash(const struct address *address, __u32 bits)
{
	__u32 folded = 0;

	for (__u32 i = 0; i < 4; i++) {
		__u32 word = bpf_ntohl(address->word_be[i]);

		if (bits < 32 * (i + 1))
			word = bits <= 32 * i ? 0 : word & ~0u << (32 * (i + 1) - bits);
		folded = (folded << 7 | folded >> 25) ^ word;
	}
	folded *= 0x9e3779b1; /* 2^32 by the golden ratio, and a step of mixing on either side */
	folded ^= folded >> 15;
	return folded * 0x85ebca77;
}

static __always_inline bool prefix_is_marked(void *marks, const struct marks_shape *shape,
					     const struct address *address)
{
	__u32 mark = prefix_hash(address, shape->bits) >> ((32 - shape->count_log2) & 31);
	__u32 word = mark / 64;
	__u64 *bits = bpf_map_lookup_elem(marks, &word);

	return !bits || *bits >> (mark % 64) & 1;
}

/* Bits set in a word; there is no instruction for it. */
static __always_inline __u32 prefix_count_bits(__u32 word)
{
	word -= word >> 1 & 0x55555555;
	word = (word & 0x33333333) + (word >> 2 & 0x33333333);
	return ((word + (word >> 4)) & 0x0f0f0f0f) * 0x01010101 >> 24;
}

/* The leaf that a node has for one of its 256 networks; CLASS_NONE if the table is not whole. */
static __always_inline __u32 prefix_leaf(void *runs, __u32 node, __u8 network)
{
	struct run_block *block = bpf_map_lookup_elem(runs, &node);
	__u32 word = network / 32, leaf, leaves;

	if (!block)
		return CLASS_NONE;
	leaf = block->words[RUN_FIRST] + (block->words[RUN_BEFORE + word / 4] >> (8 * (word % 4)) & 0xff) +
	       prefix_count_bits(block->words[RUN_STARTS + word] & (~0u >> (31 - network % 32))) - 1;
	leaves = leaf / 16;
	block = bpf_map_lookup_elem(runs, &leaves);
	return block ? block->words[leaf % 16] : CLASS_NONE;
}

/* The class by the runs. A global function, which the verifier looks at once. */
__noinline __u32 prefix_run4(__u32 slot, __u32 address)
{
	void *runs = bpf_map_lookup_elem(&prefix_runs4, &slot);
	__u32 leaf;

	if (!runs)
		return CLASS_NONE;
	leaf = prefix_leaf(runs, address >> 16, address >> 8);
	if (leaf & RUN_NODE)
		leaf = prefix_leaf(runs, leaf & ~RUN_NODE, address);
	return leaf;
}

/* A look is one cache miss. */
_Static_assert(sizeof(struct length_block) == 64, "a block is a cache line");

/*
 * The value of an address's entry of some length, or LENGTH_NO_ENTRY. User space hashes
 * in the same way (lengthEntry.places). The length is added to the last byte of an
 * address, which is 0 in nearly all but hosts: added to the first, 10.0.0.0/16 and
 * 9.0.0.0/17 would have the same hash, and more than six of these have no place.
 */
static __always_inline __u32 prefix_length_entry(void *table, const struct family_index *index,
						 const struct length_node *node, const struct address *address)
{
	__u64 high_be = ((__u64)address->word_be[1] << 32 | address->word_be[0]) & node->mask_be[0];
	__u64 low_be = ((__u64)address->word_be[3] << 32 | address->word_be[2]) & node->mask_be[1];
	__u64 hash = high_be * 0x9e3779b97f4a7c15 + low_be + ((__u64)node->length << 56);

	hash = (hash ^ hash >> 32) * 0xbf58476d1ce4e5b9;
	for (int i = 0; i < 2; i++, hash <<= 32) {
		__u32 number = (hash >> 32) * index->length_blocks >> 32;
		struct length_block *block = bpf_map_lookup_elem(table, &number);

		if (!block)
			break;
		for (int entry = 0; entry < LENGTH_ENTRIES; entry++)
			/* One condition: of three the verifier would follow each. */
			if (!((block->address_be[entry][0] ^ high_be) | (block->address_be[entry][1] ^ low_be) |
			      (block->length[entry] ^ node->length)))
				return block->value[entry];
		if (!block->spilled)
			break;
	}
	return LENGTH_NO_ENTRY;
}

/*
 * The class by the lengths, which are searched by halving (Waldvogel, Varghese,
 * Turner, Plattner, SIGCOMM 1997). An entry that is found settles all shorter
 * lengths, one that is not all longer ones: each prefix has markers of the shorter
 * lengths that are asked before its own.
 */
static __always_inline __u32 prefix_by_lengths(void *table, const struct family_index *index,
					       const struct address *address)
{
	__u32 class = index->length_class;
	__u8 number = 0;

	for (int look = 0; look < LENGTH_LOOKS_MOST; look++) {
		const struct length_node *node = &index->length_tree[number % LENGTHS_MOST];
		__u32 value;

		asm volatile("" ::: "memory"); /* the address is read again each time, as there is little stack for copies */
		value = prefix_length_entry(table, index, node, address);
		if (value == LENGTH_NO_ENTRY) {
			number = node->shorter;
		} else {
			class = value & ~LENGTH_LONGER;
			number = value & LENGTH_LONGER ? node->longer : 0;
		}
		if (!number)
			break;
	}
	return class;
}

/* The class of an IPv4 address, or CLASS_NONE. Global, as prefix_class6 is, so that it is verified once. */
__noinline __u32 prefix_class4(__u32 slot, __u32 word0_be)
{
	struct prefix_index *indexes = bpf_map_lookup_elem(&prefix_indexes, &slot);
	struct prefix_key4 key = {.length = 32, .address_be = word0_be};
	struct address address = {.word_be = {word0_be}};
	struct family_index *index;
	__u32 *class = NULL;
	void *inner;

	if (!indexes)
		return CLASS_NONE;
	index = &indexes->of4;
	if (index->changes) {
		inner = bpf_map_lookup_elem(&prefix_changes4, &slot);
		if (inner)
			class = bpf_map_lookup_elem(inner, &key);
		if (class)
			return *class;
	}
	if (index->marks.bits) {
		inner = bpf_map_lookup_elem(&prefix_marks4, &slot);
		if (inner && !prefix_is_marked(inner, &index->marks, &address))
			return CLASS_NONE;
	}
	if (index->runs)
		return prefix_run4(slot, bpf_ntohl(word0_be));
	if (index->length_blocks) {
		inner = bpf_map_lookup_elem(&prefix_lengths4, &slot);
		return inner ? prefix_by_lengths(inner, index, &address) : CLASS_NONE;
	}
	inner = bpf_map_lookup_elem(&prefixes4, &slot);
	if (inner)
		class = bpf_map_lookup_elem(inner, &key);
	return class ? *class : CLASS_NONE;
}

/* The class of an IPv6 address, which comes in words because kernels before 5.12 take no pointers here. */
__noinline __u32 prefix_class6(__u32 slot, __u32 word0_be, __u32 word1_be, __u32 word2_be, __u32 word3_be)
{
	struct prefix_index *indexes = bpf_map_lookup_elem(&prefix_indexes, &slot);
	struct prefix_key6 key = {.length = 128, .address_be = {word0_be, word1_be, word2_be, word3_be}};
	struct family_index *index;
	__u32 *class = NULL;
	void *inner;

	asm volatile("" : "+m"(key)); /* the words are read from the key, as there is little stack for copies */
	if (!indexes)
		return CLASS_NONE;
	index = &indexes->of6;
	if (index->changes) {
		inner = bpf_map_lookup_elem(&prefix_changes6, &slot);
		if (inner)
			class = bpf_map_lookup_elem(inner, &key);
		if (class)
			return *class;
	}
	if (index->marks.bits) {
		inner = bpf_map_lookup_elem(&prefix_marks6, &slot);
		if (inner && !prefix_is_marked(inner, &index->marks, (const struct address *)key.address_be))
			return CLASS_NONE;
	}
	if (index->length_blocks) {
		inner = bpf_map_lookup_elem(&prefix_lengths6, &slot);
		return inner ? prefix_by_lengths(inner, index, (const struct address *)key.address_be) : CLASS_NONE;
	}
	inner = bpf_map_lookup_elem(&prefixes6, &slot);
	if (inner)
		class = bpf_map_lookup_elem(inner, &key);
	return class ? *class : CLASS_NONE;
}

/* The class of an address, or CLASS_NONE. */
static __always_inline __u32 prefix_class(__u32 slot, __u8 family, const struct address *address)
{
	const __u32 *word_be = address->word_be;

	return family == 4 ? prefix_class4(slot, word_be[0])
			   : prefix_class6(slot, word_be[0], word_be[1], word_be[2], word_be[3]);
}

#endif
