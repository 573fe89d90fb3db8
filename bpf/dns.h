/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reading DNS messages (RFC 1035): header, names, questions. Works on a copy of
 * the message in per-CPU memory, one byte a step, so that whoever calls it can do
 * the steps in a loop that his kernel's verifier takes. Owns no verdict.
 *
 * A name is kept from its last character on, at the end of its room, in lower
 * case, with dots: so a prefix of it is a suffix of the name (struct name_key).
 * Lengths of labels are not in it, so only characters that names of policies may
 * have can be; others are noted, and such a name is equal to no other.
 */
#ifndef PERIMETERD_DNS_H
#define PERIMETERD_DNS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "context.h"
#include "name_maps.h"
#include "packet.h"
#include "settings.h"
#include "types.h"
#include "vocabulary.h"

#define DNS_HEADER 12
#define DNS_TYPE_A 1
#define DNS_TYPE_CNAME 5
#define DNS_TYPE_AAAA 28
#define DNS_CLASS_IN 1
#define DNS_NAME_MAX 253
#define DNS_LABEL_MAX 63

/* Steps a name needs at most: its bytes on the wire, and its pointers. */
#define DNS_STEPS (256 + DNS_POINTERS_MAX)

enum dns_step {
	DNS_DONE,
	DNS_MORE = NAME_EVENT_COUNT, /* all between them are an enum name_event: what is wrong */
};

/* A name with room for a length before it and for a whole key behind: it is a key of a trie where it lies. */
struct dns_name {
	__u8 before[8];
	__u8 text[NAME_TEXT];	/* ends in a zero */
	__u8 behind[NAME_TEXT];
	__u32 length;		/* characters, without that zero */
	__u32 odd;		/* has a character that no name of a policy has */
};

/* An address of the answer. */
struct dns_record {
	__u16 at;		/* in the message */
	__u16 type;
	__u32 ttl;		/* seconds, of it and all that led to it */
};

/* One message. Lives in per-CPU memory. */
struct dns {
	struct name_answer report; /* directly before the message: they go into the ring together */
	__u8 message[DNS_MESSAGE_MAX];
	__u32 length;		/* bytes of it that are here */
	__u32 whole;		/* bytes it has */

	/* Reading a name. */
	__u32 from;		/* the next byte */
	__u32 after;		/* what follows the name where it stands */
	__u32 left;		/* bytes of the label */
	__u32 pointers;
	__u32 lowest;		/* pointers must lead to before this */

	struct dns_name question;
	struct dns_name owner;
	struct dns_name wanted;	/* the question, or what its aliases have led to */
	__u32 wanted_at;	/* where in the message it stands */
	__u32 ttl;		/* the least of the aliases */
	__u32 aliases;
	__u32 records;
	struct dns_record found[DNS_RECORDS_MAX];

	struct query_key key;
	struct query query;
	struct learnt_key opened;
	struct learnt learnt;
	struct learnt_slot slot;
	struct learnt_key victim; /* what makes room */
};

enum dns_slot {
	DNS_PACKET,	/* of packets, which cannot interrupt each other */
	DNS_TEACH,	/* of the agent, whom a packet may interrupt */
	DNS_SLOT_COUNT,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DNS_SLOT_COUNT);
	__type(key, __u32);
	__type(value, struct dns);
} dns_scratch SEC(".maps");

/* The value within a mask, which the compiler cannot find out to be needless: the verifier must see it. */
static __always_inline __u32 dns_within(__u32 value, __u32 mask)
{
	asm volatile("" : "+r"(value));
	return value & mask;
}

static __always_inline void dns_count(__u32 event)
{
	__u64 *count = bpf_map_lookup_elem(&name_counts, &event);

	if (count)
		(*count)++;
}

static __always_inline void dns_name_clear(struct dns_name *name)
{
	__u64 *words = (__u64 *)name->text;

	for (int i = 0; i < NAME_TEXT / 8; i++)
		words[i] = 0;
	name->length = 0;
	name->odd = 0;
}

/* True if both are the same name, whole. */
static __always_inline bool dns_name_equals(const struct dns_name *a, const __u8 *text)
{
	const __u64 *x = (const __u64 *)a->text, *y = (const __u64 *)text;
	__u64 differ = forget(a->odd);

	for (int i = 0; i < NAME_TEXT / 8; i++)
		differ |= x[i] ^ y[i];
	return differ == 0;
}

static __always_inline void dns_name_copy(__u8 *to, const struct dns_name *from)
{
	__u64 *x = (__u64 *)to;
	const __u64 *y = (const __u64 *)from->text;

	for (int i = 0; i < NAME_TEXT / 8; i++)
		x[i] = y[i];
}

/* Begins to read a name at `at`. */
static __always_inline void dns_name_begin(struct dns *dns, struct dns_name *name, __u32 at)
{
	dns_name_clear(name);
	dns->from = at;
	dns->after = at;
	dns->left = 0;
	dns->pointers = 0;
	dns->lowest = at;
}

/* A bit for each of a-z, 0-9, '-' and '_', from '-' on. */
static __always_inline bool dns_is_usual(__u8 c)
{
	const __u64 usual = 1ULL << 0 | 0x3ffULL << ('0' - '-') | 1ULL << ('_' - '-');

	return (c >= 'a' && c <= 'z') || (c >= '-' && c <= '_' && usual >> ((c - '-') & 63) & 1);
}

static __always_inline __u32 dns_name_put(struct dns_name *name, __u8 c)
{
	__u32 length = forget(name->length);

	if (length >= DNS_NAME_MAX)
		return NAME_MALFORMED_NAME;
	if (c >= 'A' && c <= 'Z')
		c += 'a' - 'A';
	name->text[dns_within(NAME_TEXT - 2 - length, NAME_TEXT - 1)] = c;
	name->length = length + 1;
	return DNS_MORE;
}

/* Reads one byte of a name, or a pointer. */
static __always_inline __u32 dns_name_step(struct dns *dns, struct dns_name *name)
{
	__u32 at = forget(dns->from), length = forget(dns->length), left = forget(dns->left);
	__u32 target;
	__u8 byte;

	if (at >= length || at >= DNS_MESSAGE_MAX)
		return NAME_MALFORMED_NAME;
	byte = dns->message[at];
	dns->from = at + 1;
	if (left) {
		dns->left = left - 1;
		if (!dns_is_usual(byte >= 'A' && byte <= 'Z' ? byte + ('a' - 'A') : byte))
			name->odd = 1;
		return dns_name_put(name, byte);
	}
	if (byte == 0) {
		if (forget(dns->pointers) == 0)
			dns->after = at + 1;
		return DNS_DONE;
	}
	if (byte <= DNS_LABEL_MAX) {
		dns->left = byte;
		return forget(name->length) ? dns_name_put(name, '.') : DNS_MORE;
	}
	if (byte < 0xc0)
		return NAME_MALFORMED_NAME;
	at++;
	if (at >= length || at >= DNS_MESSAGE_MAX)
		return NAME_MALFORMED_NAME;
	target = (byte & 0x3f) << 8 | dns->message[at];
	if (forget(dns->pointers) == 0)
		dns->after = at + 1;
	if (target < DNS_HEADER || target >= forget(dns->lowest))
		return NAME_MALFORMED_POINTER;
	dns->pointers = forget(dns->pointers) + 1;
	if (forget(dns->pointers) > DNS_POINTERS_MAX)
		return NAME_LEFT_TOO_DEEP;
	dns->lowest = target;
	dns->from = target;
	return DNS_MORE;
}

static __always_inline __u32 dns_u16(const struct dns *dns, __u32 at)
{
	return (__u32)dns->message[dns_within(at, DNS_MESSAGE_MAX - 1)] << 8 |
	       dns->message[dns_within(at + 1, DNS_MESSAGE_MAX - 1)];
}

/*
 * Copies the message of a UDP packet, at most `most` bytes (a power of two) of it,
 * or what of it is in a first fragment; dns->whole is then more than dns->length.
 * False if it has not even a header, or is not there.
 */
static __always_inline bool dns_load(context *ctx, struct dns *dns, const struct packet *pkt, __u32 most)
{
	__u32 start = forget(pkt->l4_offset) + 8, here = forget(pkt->l4_length), length;
	__u16 said_be;

	if (bpf_skb_load_bytes(ctx, start - 4, &said_be, sizeof(said_be)) != 0)
		return false;
	length = bpf_ntohs(said_be); /* what the receiver gets; the IP packet may be longer */
	if (length > here && forget(pkt->fragment) != FRAGMENT_FIRST)
		return false;
	dns->whole = length - 8;
	if (length > here)
		length = here;
	if (length < 8 + DNS_HEADER)
		return false;
	length -= 8;
	if (length > most)
		length = most;
	dns->length = length;
	length = dns_within(length - 1, most - 1) + 1;
	return bpf_skb_load_bytes(ctx, start, dns->message, length) == 0;
}

/* The key of what is asked, or was, in the packet's flow. */
static __always_inline void dns_query_key(struct dns *dns, const struct packet *pkt)
{
	dns->key = (struct query_key){
		.local = pkt->local,
		.peer = pkt->peer,
		.local_port = pkt->local_port,
		.id = dns_u16(dns, 0),
		.family = pkt->family,
	};
}

#endif
