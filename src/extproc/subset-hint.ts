import { type Metadata, metadataString, metadataStrings } from './messages.ts';

const namespace = 'envoy.lb.subset_hint';
const key = 'x-gateway-destination-endpoint-subset';
/** More addresses than any gateway sends; what comes after them is not looked at. */
const addressesMax = 10_000;

/**
 * The endpoints a gateway allows for this request (Endpoint Picker Protocol 1.0): undefined where it gave no hint, an empty
 * set where it allows none. Entries are `ip:port`; a comma-separated string is taken as a list too.
 */
export function readSubsetHint(metadata: Metadata | undefined): ReadonlySet<string> | undefined {
  const texts = metadataStrings(metadata, namespace, key);
  if (texts === undefined) return undefined;
  const addresses = texts.slice(0, addressesMax).flatMap((text) => text.split(',', addressesMax));
  return new Set(addresses.slice(0, addressesMax).map((text) => text.trim()).filter((text) => text !== ''));
}

/** The address that really answered, after retries, where the gateway tells it in the response phase (same protocol). */
export function readServedEndpoint(metadata: Metadata | undefined): string | undefined {
  return metadataString(metadata, 'envoy.lb', 'x-gateway-destination-endpoint-served');
}
