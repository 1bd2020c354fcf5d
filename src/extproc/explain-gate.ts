import { createHash, timingSafeEqual } from 'node:crypto';
import { BlockList, isIPv4 } from 'node:net';
import type { HeaderMap } from './messages.ts';

/** Asks, with the value 1, that the response tell how the request was decided; on the response, the answer. */
export const explainHeader = 'x-fairlead-explain';
/** Proves that the client may ask. */
export const explainTokenHeader = 'x-fairlead-explain-token';

/** Says which requests are answered with an explanation. */
export class ExplainGate {
  readonly #allowed = new BlockList();
  readonly #tokenDigest: Buffer | undefined;

  /** `allow`: IP addresses and networks (`10.0.0.0/8`) of clients that may ask. `token`: or what they have to send. */
  constructor({ allow, token }: { readonly allow: readonly string[]; readonly token: string | undefined }) {
    for (const network of allow) {
      const [address = '', bits] = network.split('/');
      const family = isIPv4(address) ? 'ipv4' : 'ipv6';
      if (bits === undefined) this.#allowed.addAddress(address, family);
      else this.#allowed.addSubnet(address, Number(bits), family);
    }
    this.#tokenDigest = token === undefined ? undefined : digest(token);
  }

  /** Whether a request asks for an explanation, as hardly any does. */
  isAsked(headers: HeaderMap | undefined): boolean {
    return find(headers, explainHeader) === '1';
  }

  /** Whether a request asks for an explanation and may. `clientAddress`: IP address as Envoy tells it; undefined: it did not. */
  opens(headers: HeaderMap | undefined, clientAddress: string | undefined): boolean {
    if (!this.isAsked(headers)) return false;
    if (clientAddress !== undefined && this.#allowed.check(clientAddress, isIPv4(clientAddress) ? 'ipv4' : 'ipv6')) return true;
    const token = find(headers, explainTokenHeader);
    return token !== undefined && this.#tokenDigest !== undefined && timingSafeEqual(digest(token), this.#tokenDigest);
  }
}

function find(headers: HeaderMap | undefined, name: string): string | undefined {
  const found = headers?.headers?.find(({ key }) => key === name);
  return found === undefined ? undefined : found.raw_value !== undefined && found.raw_value.length > 0 ? found.raw_value.toString('latin1') : found.value;
}

/** Digests are of one length, whatever the token's: comparing them tells nothing of either. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text, 'latin1').digest();
}
