import { isIPv4, isIPv6 } from 'node:net';
import { structString, type Struct } from './messages.ts';

/** Attribute that Envoy sends where the filter's `request_attributes` name it. */
const sourceAddress = 'source.address';
/** Longest `x-forwarded-for` looked at, in characters; only its end matters, but a longer one is an attack. */
const forwardedCharsMax = 4_096;

/**
 * The client's IP address as Envoy made it out (`source.address` in ext_proc's `request_attributes`): the peer of the connection, or,
 * where Envoy is told to trust proxies in front of it, what those say. No client can write it. Undefined: Envoy did not tell.
 */
export function readSourceAddress(attributes: Readonly<Record<string, Struct>> | undefined): string | undefined {
  for (const struct of Object.values(attributes ?? {})) {
    const text = structString(struct, sourceAddress);
    if (text !== undefined) return parseAddress(text);
  }
  return undefined;
}

/**
 * The client's IP address by `x-forwarded-for`: the entry before those that `trustedHops` proxies in front of Envoy added, where Envoy
 * itself adds its peer as the last one (`use_remote_address: true`). What stands further left came from the client and is not looked at.
 * Undefined where there are too few entries, or that one is no address.
 */
export function readForwardedAddress(header: string | undefined, trustedHops: number): string | undefined {
  if (header === undefined || header.length > forwardedCharsMax) return undefined;
  const entry = header.split(',').at(-1 - trustedHops);
  return entry === undefined ? undefined : parseAddress(entry);
}

/** The IP address of `ip`, `ip:port`, `[v6]` or `[v6]:port`, without a zone; undefined for anything else. */
function parseAddress(text: string): string | undefined {
  const match = /^\s*(?:\[([^\]]*)\](?::\d{1,5})?|([^\s:[\]]+)(?::\d{1,5})?|([^\s[\]]*:[^\s[\]]*:[^\s[\]]*))\s*$/.exec(text);
  const address = (match?.[1] ?? match?.[2] ?? match?.[3])?.replace(/%.*$/, '');
  return address !== undefined && (isIPv4(address) || isIPv6(address)) ? address : undefined;
}

/**
 * The network that stands for a client: an IPv4 address, or the first `ipv6Prefix` bits of an IPv6 address in one fixed form, since hosts
 * get a /64 and change their address within it (RFC 8981). An IPv4 address in IPv6 form counts as IPv4.
 */
export function toClientNetwork(address: string, ipv6Prefix: number): string {
  if (isIPv4(address)) return address;
  const groups = toGroups(address);
  const [, , , , , marker, high = 0, low = 0] = groups;
  if (marker === 0xffff && groups.slice(0, 5).every((group) => group === 0)) return [high >> 8, high & 255, low >> 8, low & 255].join('.');
  const kept = groups.map((group, i) => {
    const bits = Math.min(16, Math.max(0, ipv6Prefix - 16 * i));
    return (group & (0xffff << (16 - bits)) & 0xffff).toString(16);
  });
  return `${kept.join(':')}/${ipv6Prefix}`;
}

/** The eight 16-bit groups of a valid IPv6 address. */
function toGroups(address: string): number[] {
  const [head = '', tail] = address.split('::');
  const left = head === '' ? [] : head.split(':').flatMap(toGroup);
  if (tail === undefined) return left;
  const right = tail === '' ? [] : tail.split(':').flatMap(toGroup);
  return [...left, ...new Array<number>(8 - left.length - right.length).fill(0), ...right];
}

/** One group, or the two of an IPv4 address at the end. */
function toGroup(text: string): number[] {
  if (!text.includes('.')) return [Number.parseInt(text, 16)];
  const [a = 0, b = 0, c = 0, d = 0] = text.split('.').map(Number);
  return [(a << 8) | b, (c << 8) | d];
}
