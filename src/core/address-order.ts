/** Where an address stands among endpoints that are sorted by address, as a pool's are and those of its candidates; -1: nowhere. */
export function placeOfAddress(endpoints: readonly { readonly address: string }[], address: string): number {
  let low = 0;
  let high = endpoints.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((endpoints[middle]?.address ?? '') < address) low = middle + 1;
    else high = middle;
  }
  return endpoints[low]?.address === address ? low : -1;
}
